"""The SBOM names what erratad depends on, and no tool of its tests."""

from __future__ import annotations

from typing import Any

import pytest

from daemon import __version__
from deploy.local.sbom import normal, reduced

NEEDS = {"root": ["Py_Yaml==6", "ruff==1"], "Py_Yaml==6": ["c.ext==2"], "c.ext==2": ["Py_Yaml==6"], "ruff==1": []}
BOM: dict[str, Any] = {
    "metadata": {"component": {"bom-ref": "root", "name": "erratad"}},
    "components": [{"bom-ref": ref, "name": ref.partition("==")[0]} for ref in NEEDS if ref != "root"],
    "dependencies": [{"ref": ref, "dependsOn": needs} for ref, needs in NEEDS.items()],
}


def test_what_is_needed_stays_and_the_rest_goes() -> None:
    found = reduced(BOM, {"py-yaml"})
    assert [component["name"] for component in found["components"]] == ["Py_Yaml", "c.ext"]
    assert found["metadata"]["component"]["version"] == __version__
    assert found["dependencies"] == [
        {"ref": "root", "dependsOn": ["Py_Yaml==6"]},
        {"ref": "Py_Yaml==6", "dependsOn": ["c.ext==2"]},
        {"ref": "c.ext==2", "dependsOn": ["Py_Yaml==6"]},
    ]


def test_a_dependency_that_is_not_installed_is_an_error() -> None:
    with pytest.raises(SystemExit, match="not installed: numpy"):
        reduced(BOM, {"py-yaml", "numpy"})


@pytest.mark.parametrize(
    ("requirement", "name"),
    [
        ("kafka-python[lz4,zstd]==3.0.12", "kafka-python"),
        ("Typing_Extensions>=4", "typing-extensions"),
        ("jinja2", "jinja2"),
    ],
)
def test_names_are_compared_as_pypi_does(requirement: str, name: str) -> None:
    assert normal(requirement) == name
