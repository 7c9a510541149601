"""Output on a terminal and in a pipe: colours, progress bars."""

from __future__ import annotations

import json
import re
from pathlib import Path

from daemon.cli.output import _styled
from daemon.store import Store
from tests.fixtures.cli import on_a_terminal, piped
from tests.fixtures.learned import Learned

COLOUR = re.compile(r"\x1b\[[0-9;]*(3[0-7]|9[0-7])[0-9;]*m")


def test_states_are_coloured_on_a_terminal_only_and_not_with_no_color(learned: Learned) -> None:
    assert COLOUR.search(on_a_terminal(learned.store, "adapters"))
    assert not COLOUR.search(on_a_terminal(learned.store, "adapters", NO_COLOR="1"))
    assert "\x1b" not in piped(learned.store, "adapters").stdout


def test_a_colour_never_stands_for_a_word() -> None:
    assert _styled("STATE", "live") == ("live", "green")
    assert _styled("REASON", "live") == ("live", ""), "only states are coloured, not texts of a report"


def test_long_work_shows_a_bar_on_a_terminal_and_nothing_in_a_pipe(sqlite_store: Store, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    one = {"prompt": "How?", "response": "Like this.", "is_safe": False}
    rows.write_text("".join(json.dumps({**one, "prompt": f"How {n}?"}) + "\n" for n in range(1200)))
    assert "importing rows" in on_a_terminal(sqlite_store, "import", str(rows), "--yes")
    assert piped(sqlite_store, "import", str(rows), "--yes").stderr == ""
