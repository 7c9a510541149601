"""The index of searches: which reports have all parts of three characters of a text, in any script.

It says which reports may hold the text; `daemon.store.search` compares these. A report that came or changed a moment
ago waits for the index, and a search looks at all that wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    ForeignKey,
    FromClause,
    Index,
    Integer,
    Select,
    String,
    Table,
    Text,
    bindparam,
    column,
    func,
    select,
    table,
    text,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY

from daemon.records import utcnow
from daemon.store import schema
from daemon.store.columns import UtcDateTime
from daemon.store.counts import up_to
from daemon.store.engine import reading, transaction

_WAITS = "indexed_at IS NULL"
report_texts = Table(
    "report_texts",
    schema.metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("report_id", String(200), ForeignKey("reports.id", ondelete="CASCADE"), nullable=False),
    Column("indexed_at", UtcDateTime),
    Column("grams", ARRAY(Text).with_variant(Text, "sqlite")),
    Index("uq_report_texts_report", "report_id", unique=True),
    Index("ix_report_texts_waiting", "number", sqlite_where=text(_WAITS), postgresql_where=text(_WAITS)),
    Index("ix_report_texts_grams", "grams", postgresql_using="gin", sqlite_where=text("grams IS NOT NULL")),
)
"""Reports in the order in which they came.

`grams`: the parts of the text, and the block of the number, on PostgreSQL; SQLite's are in the table `report_index`.
"""

AT_ONCE = 250
"""Reports that one transaction takes into the index."""
PER_CALL = 2_000
FEW = 1_000
"""A part of three characters that fewer reports have is rare."""
BLOCK = 8_192
"""Numbers that PostgreSQL's index keeps together, so that a search for a common word looks at the newest first."""
BLOCKS = (2, 16)
SIZE = 3
MAX_GRAMS = 64
"""The first parts of a long text are enough to find it."""
LAST_CHARACTER = "\U0010ffff"
_FTS = table("report_index", column("rowid"), column("report_index"))
_TERMS = table("report_index_terms", column("term"))


class SearchIndex:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def fill(self, at_most: int = PER_CALL) -> int:
        """Take reports that wait into the index, oldest first; returns their number. Two daemons share the work."""
        done = 0
        with reading(self._engine) as connection:  # a read first, so that an idle daemon waits for no writer
            if connection.execute(_waiting(1)).first() is None:
                return 0
        while done < at_most:
            with transaction(self._engine) as connection:
                numbers = connection.execute(_waiting(AT_ONCE).with_for_update(skip_locked=True)).scalars().all()
                if not numbers:
                    return done
                _take_in(connection, numbers)
            done += len(numbers)
        return done


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Reports of the index that may hold a text, to compare with it in the order of their numbers, newest first."""

    source: FromClause
    report_id: ColumnElement[str]
    number: ColumnElement[int]
    may_hold: ColumnElement[bool] = field(default_factory=true)


def candidates(connection: Connection, search: str) -> list[Candidates] | None:
    """The reports to compare with the text: the last are all, those before are the newest of them, the fewest first.

    None: one or two characters of ASCII; the index has nothing to say about these.
    """
    folded = search.casefold()
    if len(folded) < SIZE and folded.isascii():
        return None
    texts = report_texts.c
    if connection.dialect.name == "postgresql":
        wanted = grams(folded) if len(folded) >= SIZE else {folded}
        may_hold = texts.grams.contains(sorted(wanted)[:MAX_GRAMS])
        return [_sorted(may_hold, of_blocks) for of_blocks in (*_newest_blocks(connection), true())]
    matches = _matches(_fts_query(connection, search))
    joined = report_texts.join(_FTS, _FTS.c.rowid == texts.number)
    return [Candidates(source=joined, report_id=texts.report_id, number=_FTS.c.rowid, may_hold=matches)]


def _sorted(*conditions: ColumnElement[bool]) -> Candidates:
    """PostgreSQL's index has no order: sorted here, before a text is read."""
    found = select(report_texts.c.number, report_texts.c.report_id).where(*conditions)
    source = found.order_by(report_texts.c.number.desc()).subquery()
    return Candidates(source=source, report_id=source.c.report_id, number=source.c.number)


def _newest_blocks(connection: Connection) -> list[ColumnElement[bool]]:
    last = connection.execute(select(func.max(report_texts.c.number))).scalar() or 0
    sizes = (range(last // BLOCK, max(last // BLOCK - size, -1), -1) for size in BLOCKS)
    return [report_texts.c.grams.overlap([_block(number) for number in numbers]) for numbers in sizes]


def _block(number: int) -> str:
    """Stands among the parts of the texts of a block, and is longer than each of them."""
    return f"block {number}"


def _fts_query(connection: Connection, search: str) -> str:
    """In FTS5's language, of quoted texts only."""
    if len(search) >= SIZE:
        return " AND ".join(_rare(connection, [_quoted(part) for part in sorted(_parts(search, SIZE))[:MAX_GRAMS]]))
    low, terms = search.lower(), _TERMS.c.term
    found = connection.execute(select(terms).where(terms >= low, terms < low + LAST_CHARACTER)).scalars()
    return " OR ".join(map(_quoted, found)) or _quoted((search * SIZE)[:SIZE])


def _rare(connection: Connection, parts: Sequence[str]) -> Sequence[str]:
    """Those that few reports have, because FTS5 would read all that it has of every other part; all, if none is."""
    counts = (up_to(select(_FTS.c.rowid).where(_matches(part)), FEW) for part in parts)
    found = connection.execute(select(*(count.scalar_subquery() for count in counts))).one()
    return [part for part, count in zip(parts, found, strict=True) if count < FEW] or parts


def _matches(query: str) -> ColumnElement[bool]:
    return _FTS.c.report_index.op("MATCH", is_comparison=True)(query)


def _quoted(part: str) -> str:
    return '"{}"'.format(part.replace('"', '""'))


def grams(said: str) -> set[str]:
    """All parts of three characters; of scripts outside ASCII, which may need no more for a word, shorter ones too."""
    folded = said.casefold()
    short = (part for size in range(1, SIZE) for part in _parts(folded, size) if not part.isascii())
    return _parts(folded, SIZE) | set(short)


def _parts(said: str, size: int) -> set[str]:
    return {said[start : start + size] for start in range(len(said) - size + 1)}


def _waiting(limit: int) -> Select[int]:
    query = select(report_texts.c.number).where(report_texts.c.indexed_at.is_(None))
    return query.order_by(report_texts.c.number).limit(limit)


def _take_in(connection: Connection, numbers: Iterable[int]) -> None:
    """On SQLite, triggers write the index."""
    texts, reports = report_texts, schema.reports
    change = update(texts).values(indexed_at=utcnow())
    if connection.dialect.name == "sqlite":
        connection.execute(change.where(texts.c.number.in_(numbers)))
        return
    # a statement of its own, after the rows are locked: an erasure before it is seen, a later one waits
    query = select(texts.c.number, reports.c.id, reports.c.sent_id, reports.c.flagged)
    query = query.join(reports, reports.c.id == texts.c.report_id).where(texts.c.number.in_(numbers))
    rows = [
        {
            "of": row.number,
            "found": [
                *sorted(grams("\n".join([row.id, row.sent_id, *_atoms(row.flagged)]))),
                _block(row.number // BLOCK),
            ],
        }
        for row in connection.execute(query)
    ]
    connection.execute(change.where(texts.c.number == bindparam("of")).values(grams=bindparam("found")), rows)


def _atoms(value: Any, *, has_free_keys: bool = False) -> Iterator[str]:
    """Every text and number of a message, and the names in its metadata."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if has_free_keys:
                yield key
            yield from _atoms(inner, has_free_keys=has_free_keys or key == "metadata")
    elif isinstance(value, list):
        for inner in value:
            yield from _atoms(inner, has_free_keys=has_free_keys)
    elif value is not None:
        yield str(value)
