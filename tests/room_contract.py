"""import-linter's contract type `room`: one room of the house, and all that it may import."""

from __future__ import annotations

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class RoomContract(Contract):
    """The contract's name is a module or a package: the room.

    It may import itself, whatever is outside the project, and what `imports` lists; it must use all of the list.
    """

    type_name = "room"

    imports = fields.ListField(subfield=fields.StringField(), required=False, default=[])

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        room, allowed = self.name, [str(name) for name in self.imports]
        unknown = [name for name in (room, *allowed) if name not in graph.modules]
        arrows = [
            (importer, imported)
            for importer in sorted({room} | graph.find_descendants(room) if room in graph.modules else ())
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if not graph.is_module_squashed(imported) and not _inside(imported, room)  # others' packages are squashed
        ]
        illegal = [arrow for arrow in arrows if not any(_inside(arrow[1], name) for name in allowed)]
        unused = [name for name in allowed if not any(_inside(imported, name) for _, imported in arrows)]
        return ContractCheck(
            kept=not (unknown or illegal or unused),
            metadata={"unknown": unknown, "illegal": illegal, "unused": unused},
        )

    def render_broken_contract(self, check: ContractCheck) -> None:
        for name in check.metadata["unknown"]:
            output.print_error(f"there is no module {name}", bold=False)
        for importer, imported in check.metadata["illegal"]:
            output.print_error(f"{importer} imports {imported}", bold=False)
        for name in check.metadata["unused"]:
            output.print_error(f"{self.name} may import {name} and does not: take it out of the list", bold=False)


def _inside(module: str, package: str) -> bool:
    """Whether a room holds a module; a root package stands for its own `__init__` only."""
    return module == package or ("." in package and module.startswith(f"{package}."))
