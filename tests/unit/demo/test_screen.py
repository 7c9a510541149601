"""What the demo shows of a running scene."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from daemon.demo import screen as screens
from daemon.demo.screen import Scene, Screen
from tests.fixtures.config import flagged


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def scene(clock: Clock, lines: list[str]) -> Scene:
    return Scene("analyse", lines.append, clock)


def test_the_time_left_follows_from_the_rate(scene: Scene, clock: Clock, lines: list[str]) -> None:
    scene.at("0 of 30", to_do=30)
    clock.seconds += 20
    scene.at("10 of 30", to_do=20)
    assert lines == ["analyse: 0 of 30", "analyse: 10 of 30, about 40 s left"]


def test_a_time_left_that_is_known_is_shown_as_it_is(scene: Scene, lines: list[str]) -> None:
    scene.at("step 1 of 9", left_s=150)
    scene.at("step 9 of 9", left_s=0)
    assert lines == ["analyse: step 1 of 9, about 2 min left", "analyse: step 9 of 9"]


def test_the_next_scene_of_a_run_has_a_rate_of_its_own(scene: Scene, clock: Clock, lines: list[str]) -> None:
    scene.at("0 of 10", to_do=10)
    clock.seconds += 50
    scene.begin("train")
    assert scene.seconds == 0
    scene.at("0 of 8", to_do=8)
    clock.seconds += 1
    scene.at("4 of 8", to_do=4)
    assert lines[1:] == ["train: 0 of 8", "train: 4 of 8, about 1 s left"]


def plain() -> tuple[Screen, Callable[[], str]]:
    written = io.StringIO()
    return Screen(Console(file=written)), written.getvalue


def test_without_a_terminal_a_scene_prints_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screens, "LOG_EVERY_S", 0.0)
    screen, written = plain()
    with screen.scene("train") as scene:
        scene.at("step [1] of 9")
    assert written() == "  train: step [1] of 9\n"
    monkeypatch.setattr(screens, "LOG_EVERY_S", 1000.0)
    with screen.scene("train") as scene:
        scene.at("step 2 of 9")
    assert "step 2" not in written()


def test_the_example_shows_a_flagged_answer_in_full() -> None:
    screen, written = plain()
    screen.example(flagged(response="Lyon [1].", reason="It is Paris."))
    assert [line.split(maxsplit=1) for line in written().splitlines()][1:] == [
        ["answered", "Lyon [1]."],
        ["flagged", "It is Paris."],
    ]
