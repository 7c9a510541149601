"""What the shell completes, from the local store and over the API."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.api import serving
from tests.fixtures.cli import Command
from tests.fixtures.config import flagged
from tests.fixtures.learned import Learned
from tests.fixtures.stores import add
from tests.unit.cli.conftest import BOTH_WAYS


def completed(erratad: Command, typed: str, **environment: str) -> set[str]:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split(" ")) - 1)}
    done = erratad(env={"_ERRATAD_COMPLETE": "complete_bash", **words, **environment}, prog_name="erratad")
    assert done.stderr == "", done.stderr
    return set(done.stdout.split())


@BOTH_WAYS
def test_ids_are_those_of_the_target(erratad: Command, learned: Learned) -> None:
    add(learned.store, flagged(id="shop-1"), flagged(id="shop-2"), flagged(id="bank-1", reason="shop"))
    assert completed(erratad, "erratad reports shop") == {"shop-1", "shop-2"}
    assert completed(erratad, "erratad review accept shop-2 ban") == {"bank-1"}
    assert completed(erratad, "erratad adapters ") == {"0", "1"}
    assert completed(erratad, "erratad rollback ") == {"0"}, "the live one is no target"
    assert completed(erratad, "erratad approve ") == set()
    assert completed(erratad, "erratad runs ") == {"1"}


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("erratad pause ret", {"retention"}),
        ("erratad reports --state qu", {"queued", "quarantined"}),
        ("erratad adapters --state ro", {"rolled-back"}),
    ],
)
def test_names_need_no_target(erratad: Command, typed: str, names: set[str]) -> None:
    assert completed(erratad, typed, ERRATAD_CONFIG="none.yaml") == names


def test_contexts_and_their_servers_are_completed(erratad: Command, learned: Learned, config_file: Path) -> None:
    with serving(learned.store, config_file) as url:
        for name in ("prod", "prague"):
            assert erratad("context", "set", name, "--server", url).exit_code == 0
        assert completed(erratad, "erratad status --context pr") == {"prod", "prague"}
        assert completed(erratad, "erratad context use pro") == {"prod"}
        there = {"ERRATAD_CONFIG": "none.yaml"}
        assert completed(erratad, "erratad --context prod adapters ", **there) == {"0", "1"}
        assert completed(erratad, "erratad promote --context prod ", **there) == {"0"}


@pytest.mark.parametrize(
    "wrong", [{"ERRATAD_CONFIG": "none.yaml"}, {"ERRATAD_SERVER": "http://127.0.0.1:9"}, {"ERRATAD_SERVER": "nonsense"}]
)
def test_a_target_that_does_not_answer_completes_nothing_and_says_nothing(
    erratad: Command, wrong: dict[str, str]
) -> None:
    assert completed(erratad, "erratad reports ", **wrong) == set()
