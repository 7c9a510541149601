"""The command refuses to start where another distribution's package `daemon` is in its way, and names it."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

OWN = {"daemon/__init__.py": '"""erratad"""\n', "daemon/cli.py": "def main(): print('started')\n"}
THEIRS = {"daemon/__init__.py": "from daemon.pidfile import Lock\n", "daemon/pidfile.py": "Lock = object\n"}
ENTRY = Path(__file__).parents[3] / "connectors" / "entry.py"


def install(site: Path, name: str, version: str, files: dict[str, str]) -> None:
    """What pip does: files, overwriting others, and their record."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n")
    lines = []
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        lines.append(f"{path},sha256={digest},{len(text)}\n")
    (info / "RECORD").write_text("".join(lines))


def install_own(site: Path) -> None:
    connectors = {"connectors/__init__.py": "", "connectors/entry.py": ENTRY.read_text()}
    install(site, "erratad", "1.2.3", {**OWN, **connectors})


def install_theirs(site: Path) -> None:
    install(site, "python-daemon", "3.0.1", THEIRS)


def command(*path: Path) -> subprocess.CompletedProcess[str]:
    """`erratad` with these folders as its `sys.path`, before the standard library."""
    code = f"import sys; sys.path[:0] = {[str(folder) for folder in path]!r}; from connectors.entry import main; main()"
    return subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)


def test_alone_in_its_environment_the_command_starts(tmp_path: Path) -> None:
    install_own(tmp_path)
    assert command(tmp_path).stdout == "started\n"


@pytest.mark.parametrize("order", [(install_own, install_theirs), (install_theirs, install_own)])
def test_files_of_two_distributions_in_one_folder_are_refused_whichever_came_first(
    tmp_path: Path, order: tuple
) -> None:  # type: ignore[type-arg]
    for step in order:
        step(tmp_path)
    done = command(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        f"erratad: python-daemon 3.0.1 and erratad have put their files into one folder, {tmp_path}"
    )
    assert "virtual environment of its own" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stray_file_of_no_distribution_does_no_harm(tmp_path: Path) -> None:
    install_own(tmp_path)
    (tmp_path / "daemon" / "notes.txt").touch()
    assert command(tmp_path).stdout == "started\n"


def test_another_first_file_alone_is_noticed(tmp_path: Path) -> None:
    install_own(tmp_path)
    install(tmp_path, "daemon-tools", "1", {"daemon/__init__.py": "Daemon = object\n"})
    assert command(tmp_path).stderr.startswith("erratad: daemon-tools 1 and erratad ")


def test_a_package_that_comes_first_on_the_path_is_refused_with_its_place(tmp_path: Path) -> None:
    install_theirs(tmp_path / "theirs")
    install_own(tmp_path / "own")
    done = command(tmp_path / "theirs", tmp_path / "own")
    assert done.returncode == 2
    assert f"`daemon` of python-daemon 3.0.1 ({tmp_path / 'theirs' / 'daemon'}) instead of erratad's" in done.stderr
    assert command(tmp_path / "own", tmp_path / "theirs").stdout == "started\n"


def test_a_package_without_a_distribution_is_refused_by_its_place(tmp_path: Path) -> None:
    (tmp_path / "work" / "daemon").mkdir(parents=True)
    (tmp_path / "work" / "daemon" / "__init__.py").touch()
    install_own(tmp_path / "own")
    done = command(tmp_path / "work", tmp_path / "own")
    assert f"an unknown distribution ({tmp_path / 'work' / 'daemon'})" in done.stderr
