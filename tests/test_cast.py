"""The moving picture of a command."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from deploy.docs import cast

SVG = "{http://www.w3.org/2000/svg}"
TALKS = """from time import sleep
print("one <"); sleep(0.4); print("\033[32mtwo\033[0m"); sleep(0.4); print(*range(60), sep="\\n")"""


def recorded(tmp_path: Path, code: str = TALKS) -> Path:
    path = tmp_path / "talks.cast"
    assert cast.record([sys.executable, "-c", code], path) == 0
    return path


def text(frame: cast.Frame) -> list[str]:
    return ["".join(run.text for run in line) for line in frame]


def test_a_recording_is_an_asciicast(tmp_path: Path) -> None:
    head, *events = [json.loads(line) for line in recorded(tmp_path).read_text().splitlines()]
    assert (head["version"], head["width"]) == (2, cast.WIDTH)
    assert [event[0] for event in events] == sorted(event[0] for event in events)
    assert "".join(event[2] for event in events).startswith("one <\r\n")


def test_each_change_of_the_screen_is_a_frame_and_a_long_text_is_scrolled_through(tmp_path: Path) -> None:
    frames = cast.frames(recorded(tmp_path))
    assert text(frames[0])[0] == "one <"
    assert text(frames[1])[:2] == ["one <", "two"]
    tops = [text(frame)[0] for frame in frames]
    assert tops[:4] == ["one <", "one <", "1", "4"], "the first lines go step by step"
    assert all(len(frame) <= cast.HEIGHT for frame in frames)
    assert len(frames) == 2 + -(-(63 - cast.HEIGHT) // cast.SCROLL_ROWS)


def test_the_picture_has_each_line_once_and_all_frames_in_a_strip(tmp_path: Path) -> None:
    frames = cast.frames(recorded(tmp_path))
    drawn = ET.fromstring(cast.svg(frames))
    lines = drawn.findall(f".//{SVG}defs/{SVG}g")
    assert ["".join(line.itertext()) for line in lines] == ["one <", "two", *map(str, range(60))]
    assert lines[1][0].get("fill") == cast.COLOURS["green"]
    rows = [float(use.get("y", "")) for use in drawn.iter(f"{SVG}use")]
    assert len(rows) == sum(1 for frame in frames for line in frame if line)
    assert rows == sorted(rows)
