"""The SBOM names what erratad depends on, and no tool of its tests."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest

from daemon import __version__
from deploy.local.sbom import needs, reduced

REQUIRES = {
    "py-yaml": ["C.ext>=2", "ruff; extra == 'test'", "other; python_version < '3'"],
    "c-ext": ["py_yaml", "fast; extra == 'speed'"],
    "kafka": ["c_ext[speed]"],
    "fast": [],
}
BOM: dict[str, Any] = {
    "metadata": {"component": {"bom-ref": "root", "name": "erratad"}},
    "components": [{"bom-ref": f"{name}==1", "name": name} for name in ("Py_Yaml", "c.ext", "fast", "ruff")],
    "dependencies": [{"ref": "root", "dependsOn": ["Py_Yaml==1", "ruff==1"]}],
}


def requires(name: str) -> list[str]:
    if name not in REQUIRES:
        raise PackageNotFoundError(name)
    return REQUIRES[name]


def test_extras_that_nobody_asked_for_are_no_dependencies() -> None:
    assert needs(["Py.Yaml>=1"], requires) == {"": {"py-yaml"}, "py-yaml": {"c-ext"}, "c-ext": {"py-yaml"}}


def test_an_extra_is_followed_although_its_package_is_known_without_it() -> None:
    graph = needs(["c-ext", "kafka"], requires)
    assert graph["c-ext"] == {"py-yaml", "fast"}


def test_what_is_needed_stays_and_the_rest_goes() -> None:
    found = reduced(BOM, needs(["Py.Yaml"], requires))
    assert [component["name"] for component in found["components"]] == ["Py_Yaml", "c.ext"]
    assert found["metadata"]["component"]["version"] == __version__
    assert found["dependencies"] == [
        {"ref": "root", "dependsOn": ["Py_Yaml==1"]},
        {"ref": "c.ext==1", "dependsOn": ["Py_Yaml==1"]},
        {"ref": "Py_Yaml==1", "dependsOn": ["c.ext==1"]},
    ]


def test_a_dependency_that_is_not_installed_is_an_error() -> None:
    with pytest.raises(SystemExit, match="numpy is not installed"):
        needs(["py-yaml", "numpy"], requires)
