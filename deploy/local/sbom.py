"""Reduces the SBOM of an environment (CycloneDX, by cyclonedx-py) to erratad and what it depends on.

    python -m deploy.local.sbom build/environment.cdx.json dist/erratad.cdx.json cpu

The environment holds the tools of the tests, too. The last argument names the extras whose packages are kept.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from daemon import __version__

ROOT = Path(__file__).parents[2]


def main() -> None:
    source, target, extras = sys.argv[1:]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(each for name in extras.split(",") for each in optional(project, name))]
    bom = reduced(json.loads(Path(source).read_text()), {normal(one) for one in wanted})
    Path(target).write_text(json.dumps(bom, indent=1) + "\n")
    print(f"sbom: {len(bom['components'])} packages in {target}")


def optional(project: dict[str, Any], name: str) -> list[str]:
    return list(project["optional-dependencies"][name])


def normal(requirement: str) -> str:
    """The name in a requirement, in the form in which PyPI compares names."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[=<>!~;]", requirement)[0]).lower()


def reduced(bom: dict[str, Any], wanted: Iterable[str]) -> dict[str, Any]:
    """The components that `wanted` needs, directly or not, with their dependencies.

    Raises:
        SystemExit: if one of `wanted` is not installed.
    """
    names = {component["bom-ref"]: normal(component["name"]) for component in bom["components"]}
    needs = {entry["ref"]: entry.get("dependsOn", []) for entry in bom["dependencies"]}
    direct = sorted(ref for ref, name in names.items() if name in wanted)
    if missing := set(wanted) - {names[ref] for ref in direct}:
        raise SystemExit(f"sbom: not installed: {', '.join(sorted(missing))}; run `make setup` first")
    kept, open_ends = set(), list(direct)
    while open_ends:
        ref = open_ends.pop()
        if ref not in kept:
            kept.add(ref)
            open_ends += [each for each in needs.get(ref, []) if each in names]
    root = {**bom["metadata"]["component"], "version": __version__, "purl": f"pkg:pypi/erratad@{__version__}"}
    lines = [{"ref": root["bom-ref"], "dependsOn": direct}]
    lines += [{"ref": ref, "dependsOn": [each for each in needs.get(ref, []) if each in kept]} for ref in sorted(kept)]
    return {
        **bom,
        "metadata": {**bom["metadata"], "component": root},
        "components": [component for component in bom["components"] if component["bom-ref"] in kept],
        "dependencies": lines,
    }


if __name__ == "__main__":
    main()
