"""import-linter's contract type `room`: one room of the house, and all that it may import."""

from __future__ import annotations

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class RoomContract(Contract):
    """A room is a module or a package; it may import itself, what is outside the project, and what `imports` lists."""

    type_name = "room"

    room = fields.StringField()
    imports = fields.ListField(subfield=fields.StringField(), required=False, default=[])

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        room, allowed = str(self.room), [str(name) for name in self.imports]
        unknown = [name for name in (room, *allowed) if name not in graph.modules]
        project = {module.partition(".")[0] for module in graph.modules if graph.find_children(module)}
        arrows = [
            (importer, imported)
            for importer in sorted({room} | graph.find_descendants(room) if room in graph.modules else ())
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if imported.partition(".")[0] in project and not _inside(imported, room)
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
            output.print_error(f"{self.room} may import {name} and does not: take it out of the list", bold=False)


def _inside(module: str, package: str) -> bool:
    """Whether a room holds a module; a root package stands for its own `__init__` only."""
    return module == package or ("." in package and module.startswith(f"{package}."))
