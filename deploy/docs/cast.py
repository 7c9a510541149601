"""The moving picture of a command: `record` runs it in a terminal, `draw` makes an SVG of the recording.

Usage, from the repository's root:
    python -m deploy.docs.cast record build/demo.cast -- .venv/bin/python -m daemon demo
    python -m deploy.docs.cast draw build/demo.cast docs/images/demo.svg

A recording is an asciicast of version 2 (https://docs.asciinema.org/manual/asciicast/v2/). The picture shows it faster:
each frame is the screen after an equal share of the time, and a long text at once is scrolled through.
"""

from __future__ import annotations

import argparse
import codecs
import json
import os
import pty
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

import pyte

WIDTH, HEIGHT = 112, 30
"""Columns and rows of the picture. The terminal itself has more rows, so that nothing scrolls out of it."""
ROWS = 400
STATES = 60
"""So many equal shares of the time have a frame; those in which nothing changed have none."""
SCROLL_ROWS = 3
FRAME_S, LAST_S = 0.4, 8.0
CELL_W, CELL_H, FONT_SIZE = 8.4, 18, 14
COLOURS = {
    "default": "#d8dee9",
    "black": "#3b4252",
    "red": "#e06c75",
    "green": "#98c379",
    "brown": "#e5c07b",
    "blue": "#81a1c1",
    "magenta": "#b48ead",
    "cyan": "#88c0d0",
    "white": "#eceff4",
}
GROUND = "#1f2430"


@dataclass(frozen=True)
class Run:
    """Neighbouring characters of one look. `column`: of the first."""

    column: int
    text: str
    colour: str
    bold: bool


Line = tuple[Run, ...]
Frame = tuple[Line, ...]


def record(command: Sequence[str], into: Path) -> int:
    """Run the command in a terminal and write all its output with times. Returns its exit code."""
    started, decoder = time.monotonic(), codecs.getincrementaldecoder("utf-8")(errors="replace")
    with into.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"version": 2, "width": WIDTH, "height": ROWS, "command": " ".join(command)}) + "\n")

        def read(terminal: int) -> bytes:
            found = os.read(terminal, 65_536)
            file.write(json.dumps([round(time.monotonic() - started, 3), "o", decoder.decode(found)]) + "\n")
            return found

        terminal = ["env", f"COLUMNS={WIDTH}", f"LINES={ROWS}", "TERM=xterm-256color", *command]
        return os.waitstatus_to_exitcode(pty.spawn(terminal, read))


def frames(cast: Path) -> list[Frame]:
    """The screens of a recording, one after the other, each different from the one before."""
    lines = cast.read_text(encoding="utf-8").splitlines()
    events = [(float(at), str(text)) for at, kind, text in map(json.loads, lines[1:]) if kind == "o"]
    screen = pyte.Screen(WIDTH, ROWS)
    stream = pyte.Stream(screen)
    share = events[-1][0] / STATES
    found: list[Frame] = []
    top = 0
    for _, state in groupby(events, key=lambda event: int(event[0] / share)):
        for _, text in state:
            stream.feed(text)
        seen = [_line(screen, row) for row in range(screen.cursor.y + 1)]
        lowest = max(0, len(seen) - HEIGHT)
        while True:
            frame = tuple(seen[top : top + HEIGHT])
            if not found or frame != found[-1]:
                found.append(frame)
            if top == lowest:
                break
            top = min(top + SCROLL_ROWS, lowest)
    return found


def _line(screen: pyte.Screen, row: int) -> Line:
    cells = screen.buffer[row]
    looks = [(cells[x].fg, cells[x].bold) for x in range(WIDTH)]
    runs = []
    for (colour, bold), group in groupby(range(WIDTH), key=lambda x: looks[x]):
        columns = list(group)
        text = "".join(cells[x].data for x in columns)
        if text.strip():
            runs.append(Run(columns[0], text.rstrip(), _colour(colour), bold))
    return tuple(runs)


def _colour(name: str) -> str:
    """pyte's names of colours, with "bright" before them for some, or six hexadecimal digits."""
    plain = name.removeprefix("bright")
    return f"#{name}" if re.fullmatch("[0-9a-f]{6}", name) else COLOURS.get(plain, COLOURS["default"])


def svg(shown: Sequence[Frame]) -> str:
    """All frames in one strip that moves; a line that several frames have is written once."""
    names: dict[Line, str] = {}
    width, height = WIDTH * CELL_W + 24, HEIGHT * CELL_H + 24
    strip = []
    for number, frame in enumerate(shown):
        for row, line in enumerate(frame):
            if line:
                name = names.setdefault(line, f"l{len(names)}")
                strip.append(f'<use href="#{name}" y="{number * height + (row + 1) * CELL_H:g}"/>')
    seconds = FRAME_S * (len(shown) - 1) + LAST_S
    moves = "".join(
        f"{100 * FRAME_S * number / seconds:.3f}%{{transform:translateY({-number * height:g}px)}}"
        for number in range(len(shown))
    )
    return "".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img">',
            "<title>A recording of the terminal</title>",
            f"<style>text{{font:{FONT_SIZE}px ui-monospace,Menlo,Consolas,monospace;white-space:pre}}",
            f"#s{{animation:s {seconds:.1f}s steps(1,end) infinite}}@keyframes s{{{moves}100%{{transform:none}}}}",
            "@media(prefers-reduced-motion){#s{animation:none;",
            f"transform:translateY({-(len(shown) - 1) * height:g}px)}}}}</style><defs>",
            *(f'<g id="{name}">{"".join(map(_text, line))}</g>' for line, name in names.items()),
            f'</defs><rect width="100%" height="100%" rx="8" fill="{GROUND}"/><svg x="12" y="4" ',
            f'width="{width - 24:g}" height="{height - 8:g}"><g id="s">{"".join(strip)}</g></svg></svg>\n',
        )
    )


def _text(run: Run) -> str:
    weight = ' font-weight="bold"' if run.bold else ""
    place = f'x="{run.column * CELL_W:g}" textLength="{len(run.text) * CELL_W:g}"'
    return f'<text {place} fill="{run.colour}"{weight}>{escape(run.text)}</text>'


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="what")
    recorder = commands.add_parser("record")
    recorder.add_argument("cast", type=Path)
    recorder.add_argument("command", nargs="+")
    drawer = commands.add_parser("draw")
    drawer.add_argument("cast", type=Path)
    drawer.add_argument("svg", type=Path)
    given = parser.parse_args(arguments)
    if given.what == "record":
        return record(given.command, given.cast)
    given.svg.write_text(svg(frames(given.cast)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
