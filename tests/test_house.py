"""The rooms: the printed tree is the tree, every room says what it is for, and the contract of a room can fail."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import grimp
import pytest

from deploy.docs import tree
from tests.room_contract import RoomContract


def test_the_tree_in_the_architecture_page_is_the_tree() -> None:
    assert tree.printed() == tree.tree(), "write it anew: python -m deploy.docs.tree"


def test_every_folder_is_placed_in_the_tree() -> None:
    assert set(tree.packages()) == set(tree.ROOMS)


@pytest.mark.parametrize("folder", [name for name in tree.packages() if tree.modules(name)])
def test_a_room_says_which_module_to_read_first(folder: str) -> None:
    first = re.search(r"Read `(\w+)` first", tree.docstring(tree.ROOT / folder))
    assert first is not None
    assert first[1] in tree.modules(folder)


@pytest.fixture
def graph() -> grimp.ImportGraph:
    """Rooms a, b and c; a imports b."""
    graph = grimp.ImportGraph()
    for module in ("house", "house.a", "house.a.inner", "house.b", "house.c"):
        graph.add_module(module)
    graph.add_import(importer="house.a.inner", imported="house.b")
    return graph


def check(graph: grimp.ImportGraph, imports: list[str]) -> dict[str, list[object]]:
    contract = RoomContract("house.a", {}, {"imports": imports})
    result = contract.check(graph, verbose=False)
    assert result.kept == (not any(result.metadata.values()))
    return {name: found for name, found in result.metadata.items() if found}


def test_a_room_that_imports_what_it_lists_keeps_its_contract(graph: grimp.ImportGraph) -> None:
    assert check(graph, ["house.b"]) == {}


def test_an_import_that_is_not_listed_breaks_the_contract(graph: grimp.ImportGraph) -> None:
    assert check(graph, []) == {"illegal": [("house.a.inner", "house.b")]}


def test_a_listed_room_that_is_not_imported_or_not_there_breaks_the_contract(graph: grimp.ImportGraph) -> None:
    assert check(graph, ["house.b", "house.c"]) == {"unused": ["house.c"]}
    assert check(graph, ["house.b", "house.d"]) == {"unknown": ["house.d"], "unused": ["house.d"]}


def test_the_root_package_stands_for_itself_only(graph: grimp.ImportGraph) -> None:
    assert check(graph, ["house"]) == {"illegal": [("house.a.inner", "house.b")], "unused": ["house"]}


def test_every_room_has_a_contract() -> None:
    contracts = tomllib.loads((tree.ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rooms = {
        f"{house}.{path.stem}"
        for house in ("connectors", "daemon")
        for path in (tree.ROOT / house).iterdir()
        if _is_room(path)
    }
    assert {contract["name"] for contract in contracts if contract["type"] == "room"} == rooms


def _is_room(path: Path) -> bool:
    return (path / "__init__.py").is_file() or (path.suffix == ".py" and not path.stem.startswith("__"))
