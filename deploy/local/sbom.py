"""Reduces the SBOM of an environment (CycloneDX, by cyclonedx-py) to erratad and what it depends on.

    python -m deploy.local.sbom build/environment.cdx.json dist/erratad.cdx.json cpu

The environment holds the tools of the tests, too. The last argument names the extras whose packages are kept.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from daemon import __version__

ROOT = Path(__file__).parents[2]
Needs = dict[str, set[str]]


def main() -> None:
    source, target, extras = sys.argv[1:]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(each for name in extras.split(",") for each in optional[name])]
    bom = reduced(json.loads(Path(source).read_text()), needs(wanted))
    Path(target).write_text(json.dumps(bom, indent=1) + "\n")
    print(f"sbom: {len(bom['components'])} packages in {target}")


def needs(wanted: Iterable[str], requires: Callable[[str], list[str] | None] = metadata.requires) -> Needs:
    """The installed packages that these requirements need, directly ("") or not, each with those that it needs.

    cyclonedx-py 7.5 lists the extras that nobody asked for as dependencies, too, among them tools of tests.

    Raises:
        SystemExit: if one of `wanted` is not installed.
    """
    found: Needs = {"": set()}
    asked = set()
    waiting = [("", Requirement(each), "") for each in wanted]
    while waiting:
        parent, requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        found[parent].add(name)
        found.setdefault(name, set())
        for each in {"", *requirement.extras} - {extra for known, extra in asked if known == name}:
            asked.add((name, each))
            try:
                waiting += [(name, Requirement(one), each) for one in requires(name) or ()]
            except metadata.PackageNotFoundError:  # `install.sh` removes some that vLLM's build for CPUs names
                if not parent:
                    raise SystemExit(f"sbom: {name} is not installed; run `make setup` first") from None
    return found


def reduced(bom: dict[str, Any], graph: Needs) -> dict[str, Any]:
    """The components in the graph, with its dependencies."""
    refs = {canonicalize_name(component["name"]): component["bom-ref"] for component in bom["components"]}
    kept = {name: refs[name] for name in sorted(graph) if name in refs}
    root = {**bom["metadata"]["component"], "version": __version__, "purl": f"pkg:pypi/erratad@{__version__}"}
    return {
        **bom,
        "metadata": {**bom["metadata"], "component": root},
        "components": [component for component in bom["components"] if component["bom-ref"] in kept.values()],
        "dependencies": [
            {"ref": ref, "dependsOn": sorted(kept[each] for each in graph[name] if each in kept)}
            for name, ref in [("", root["bom-ref"]), *kept.items()]
        ],
    }


if __name__ == "__main__":
    main()
