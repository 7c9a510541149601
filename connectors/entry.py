"""The first lines of the `erratad` command: are the packages `daemon` and `connectors` erratad's?

Other distributions, e.g. python-daemon, bring a package `daemon`, too. Theirs may come first on `sys.path`, or pip may
have put the files of both into one folder. Either ends in an import error somewhere, so the command refuses to start.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("daemon", "connectors")
USAGE = 2
REMEDY = "install erratad in a virtual environment of its own: python3 -m venv erratad; erratad/bin/pip install erratad"


def main() -> None:
    """Run the command line, or exit with 2 and one message."""
    found = problem(Path(__file__).parents[1])
    if found is not None:
        print(f"erratad: {found}; {REMEDY}", file=sys.stderr)  # noqa: T201 - nothing else can be imported
        raise SystemExit(USAGE)
    import_module("daemon.cli").main()


def problem(site: Path) -> str | None:
    """Why erratad cannot run from the folder `site` that holds its packages; None: it can."""
    spec = find_spec("daemon")
    places = [] if spec is None else [Path(place) for place in spec.submodule_search_locations or ()]
    if site / "daemon" not in places:
        there = f" ({places[0]})" if places else ""
        owner = _owners("daemon", places[0].parent if places else site) or "an unknown distribution"
        return f"Python imports the package `daemon` of {owner}{there} instead of erratad's ({site / 'daemon'})"
    for package in PACKAGES:
        if _is_mixed(site, package) and (owner := _owners(package, site)):
            return f"{owner} and erratad have put their files into one folder, {site / package}"
    return None


def _is_mixed(site: Path, package: str) -> bool:
    """Whether pip's record of erratad differs from the folder: a file too many, or another first file."""
    recorded = dict(_record(site, package))
    if not recorded:  # a checkout
        return False
    mine = {name.partition("/")[0] for name in recorded} | {"__pycache__"}
    if any(entry.name not in mine for entry in (site / package).iterdir()):
        return True
    digest = hashlib.sha256((site / package / "__init__.py").read_bytes()).digest()
    return recorded["__init__.py"] != "sha256=" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _record(site: Path, package: str) -> Iterator[tuple[str, str]]:
    """Name below the package, and hash, of each file that pip installed."""
    for path in site.glob("erratad-*.dist-info/RECORD"):
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, rest = line.partition(",")
            if name.startswith(f"{package}/"):
                yield name.removeprefix(f"{package}/"), rest.partition(",")[0]


def _owners(package: str, site: Path) -> str:
    """The other distributions below `site` with files in the package, with their versions."""
    found = {
        f"{one.name} {one.version}"
        for one in metadata.distributions(path=[str(site)])
        if one.name != "erratad" and any(file.parts[0] == package for file in one.files or ())
    }
    return ", ".join(sorted(found))
