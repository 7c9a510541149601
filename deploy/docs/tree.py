"""Writes the tree of rooms into docs/architecture.md: python -m deploy.docs.tree."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
ROOMS = [
    *(
        "connectors",
        "connectors/messages",
        "connectors/checker",
        "connectors/kafka",
        "connectors/vllm_plugin",
        "daemon",
    ),
    *(
        "daemon/intake",
        "daemon/intake/formats",
        "daemon/intake/products",
        "daemon/induction",
        "daemon/evidence",
        "daemon/reflection",
        "daemon/reflection/prompts",
    ),
    *("daemon/dataset", "daemon/training", "daemon/evaluation", "daemon/promotion", "daemon/delivery"),
    *("daemon/serving", "daemon/operations", "daemon/web", "daemon/web/console", "daemon/cli", "daemon/demo"),
    *("daemon/store", "daemon/runtime", "daemon/trust", "daemon/artifacts", "daemon/chat", "daemon/text"),
    *("daemon/privacy", "daemon/config"),
]
"""In reading order: connectors, the pipeline, and the rooms beside it. A folder that is not listed comes last."""
_PRINTED = re.compile(r"(?<=<!-- tree -->\n```\n).*?(?=```)", re.DOTALL)


def main() -> None:
    PAGE.write_text(_PRINTED.sub(lambda _: tree(), PAGE.read_text(), count=1))


def printed() -> str:
    """The tree as the page shows it."""
    found = _PRINTED.search(PAGE.read_text())
    return found[0] if found else ""


def tree() -> str:
    """A line per folder of connectors/ and daemon/ with its docstring's first sentences, and its modules."""
    lines = []
    for folder in sorted(packages(), key=lambda name: (ROOMS.index(name) if name in ROOMS else len(ROOMS), name)):
        purpose = " ".join(docstring(ROOT / folder).split("\n\n")[0].split()).partition(" Read `")[0]
        lines.append(f"{folder + '/':25} {purpose}")
        lines += textwrap.wrap(" ".join(modules(folder)), 116, initial_indent=" " * 4, subsequent_indent=" " * 4)
    return "\n".join(lines) + "\n"


def packages() -> list[str]:
    """Every package of the product; without the migrations, which Alembic writes."""
    found = [path.parent for room in ("connectors", "daemon") for path in (ROOT / room).rglob("__init__.py")]
    return [str(folder.relative_to(ROOT)) for folder in found if "migrations" not in folder.parts]


def modules(folder: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / folder).glob("*.py") if path.stem != "__init__")


def docstring(folder: Path) -> str:
    return ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""


if __name__ == "__main__":
    main()
