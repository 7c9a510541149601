"""The moving picture of a command."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from deploy.docs import cast

SVG = "{http://www.w3.org/2000/svg}"
NUMBERS = "\r\n".join(map(str, range(60)))
EVENTS = [[0.1, "o", "one <\r\n"], [1.0, "o", "\033[92mtwo\033[0m\r\n"], [2.0, "o", NUMBERS]]


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    path = tmp_path / "talk.cast"
    lines = [{"version": 2, "width": cast.WIDTH, "height": cast.ROWS}, *EVENTS]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def text(frame: cast.Frame) -> list[str]:
    return ["".join(run.text for run in line) for line in frame]


def test_a_recording_is_an_asciicast(tmp_path: Path) -> None:
    path = tmp_path / "talk.cast"
    assert cast.record([sys.executable, "-c", "print('one <'); print('two'); raise SystemExit(3)"], path) == 3
    head, *events = [json.loads(line) for line in path.read_text().splitlines()]
    assert (head["version"], head["width"]) == (2, cast.WIDTH)
    assert [event[0] for event in events] == sorted(event[0] for event in events)
    assert "".join(event[2] for event in events) == "one <\r\ntwo\r\n"


def test_each_change_of_the_screen_is_a_frame_and_a_long_text_is_scrolled_through(talk: Path) -> None:
    frames = cast.frames(talk)
    assert text(frames[0])[0] == "one <"
    assert text(frames[1])[:2] == ["one <", "two"]
    tops = [text(frame)[0] for frame in frames]
    assert tops[:4] == ["one <", "one <", "one <", "1"], "the first lines go step by step"
    assert all(len(frame) <= cast.HEIGHT for frame in frames)
    assert len(frames) == 3 + -(-(62 - cast.HEIGHT) // cast.SCROLL_ROWS)


def test_the_picture_has_each_line_once_and_all_frames_in_a_strip(talk: Path) -> None:
    frames = cast.frames(talk)
    drawn = ET.fromstring(cast.svg(frames))
    lines = drawn.findall(f".//{SVG}defs/{SVG}g")
    assert ["".join(line.itertext()) for line in lines] == ["one <", "two", *map(str, range(60))]
    assert lines[1][0].get("fill") == cast.COLOURS["green"]
    rows = [float(use.get("y", "")) for use in drawn.iter(f"{SVG}use")]
    assert len(rows) == sum(1 for frame in frames for line in frame if line)
    assert rows == sorted(rows)
