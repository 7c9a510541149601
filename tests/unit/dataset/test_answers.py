"""Answers of the base model that are asked for once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from connectors.chat import EndpointError
from daemon.chat.preparation import Preparation
from daemon.dataset.answers import REFUSED_S, Answers, Draw
from tests.fixtures.training import FINGERPRINT, OrdinaryAnswers

ASKED = ({"role": "user", "content": "Tell me about rivers"},)


def _draw(number: int = 0, **changes: object) -> Draw:
    return Draw.of(ASKED, **{"max_tokens": 8, "temperature": 0.8, "report_id": "one", "number": number, **changes})  # type: ignore[arg-type]


@pytest.fixture
def servers() -> OrdinaryAnswers:
    return OrdinaryAnswers()


@pytest.fixture
def answers(servers: OrdinaryAnswers, tmp_path: Path) -> Answers:
    return Answers(fleet=servers, base_name="base", folder=tmp_path, fingerprint=FINGERPRINT)


def test_draws_of_one_question_have_seeds_of_their_own(answers: Answers, servers: OrdinaryAnswers) -> None:
    answers.ask([_draw(0), _draw(1)])
    assert len(set(servers.seeds)) == 2
    assert answers.known(_draw(0)) == answers.known(_draw(1)) is not None
    assert answers.known(_draw(2)) is None


def test_other_settings_models_and_roles_are_asked_anew(
    answers: Answers, servers: OrdinaryAnswers, tmp_path: Path
) -> None:
    answers.ask([_draw()])
    for other in (_draw(max_tokens=9), _draw(temperature=0.0)):
        assert answers.known(other) is None
    as_system = Draw.of([{**ASKED[0], "role": "system"}], max_tokens=8, temperature=0.8, report_id="one", number=0)
    assert answers.known(as_system) is None
    another = Answers(fleet=servers, base_name="base", folder=tmp_path, fingerprint="e" * 64)
    assert another.known(_draw()) is None


def test_answers_that_came_before_an_error_are_kept(answers: Answers, servers: OrdinaryAnswers) -> None:
    answers.ask([_draw()])
    servers.failing = EndpointError("restarts", transient=True)
    with pytest.raises(EndpointError):
        answers.ask([_draw(1)])
    assert answers.known(_draw()) is not None
    assert answers.known(_draw(1)) is None


def test_a_refusal_is_kept_for_some_time(answers: Answers, servers: OrdinaryAnswers, tmp_path: Path) -> None:
    servers.failing = EndpointError("too long", transient=False, status=400)
    answers.ask([_draw()])
    kept = answers.known(_draw())
    assert kept is not None
    assert kept.refusal == "too long"
    [path] = tmp_path.glob("*/*.json")
    old = path.stat().st_mtime - REFUSED_S - 1
    os.utime(path, (old, old))
    assert answers.known(_draw()) is None


def test_thoughts_are_kept_and_not_shown(answers: Answers, servers: OrdinaryAnswers) -> None:
    servers.preparation = Preparation(tags=("<think>", "</think>"))
    servers.thoughts = "hm"
    answers.ask([_draw()])
    kept = answers.known(_draw())
    assert kept is not None
    assert "hm" in kept.text
    assert answers.shown(kept) == "A short answer about rivers"
