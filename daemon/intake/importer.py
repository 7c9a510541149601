"""Imports a file of annotated answers: first a survey of the whole file, then its bad answers as reports.

Ids are derived from the content of a report, so importing a file again changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from connectors.messages import FlaggedResponse
from daemon.errors import ConfigError
from daemon.intake.formats.answers import Reading, UnknownShapeError, read_row
from daemon.intake.formats.cells import LeftOutError, RowError, column_name
from daemon.intake.formats.exports import unwrapped
from daemon.intake.formats.files import RowFile, open_rows
from daemon.intake.formats.reports import ImportOptions
from daemon.intake.products.reading import ProductFile, items_of, title_of
from daemon.privacy.redact import TOO_MUCH
from daemon.records import MAX_NUMBER, TRUSTED_IMPORT, Source
from daemon.store import Added, Reports

BATCH = 200
NO_CAP = MAX_NUMBER
"""No limit per reporter: the operator who imports a file is trusted."""
SHOWN_REPORTS = 2
MAX_COLUMNS = 1000
Options = ImportOptions | ProductFile
"""How to read a file: annotated data, or the feedback of a product."""
OnRows = Callable[[int], None]
"""Called from time to time with the number of rows read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowProblem:
    """A row that was not imported; lines count from 1 (rows, in a Parquet file)."""

    line: int
    field: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Rows that hold no report for one reason."""

    rows: int
    first_line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a file holds, before anything is stored."""

    file: RowFile
    columns: tuple[str, ...]
    rows: int
    shapes: Mapping[str, int]
    """Rows with a report, per recognised shape."""
    reports: int
    first: tuple[tuple[int, FlaggedResponse], ...]
    """The first reports, with their lines."""
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)
    problems: tuple[RowProblem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSummary:
    """Result of an import. A row with two bad answers counts twice in `outcomes`."""

    survey: Survey
    outcomes: Mapping[Added, int] = field(default_factory=dict)
    problems: tuple[RowProblem, ...] = ()
    """The survey's problems, and reports that the store refused."""


def survey(path: Path, options: Options | None = None, on_rows: OnRows = lambda _rows: None) -> Survey:
    """Read the whole file and store nothing. Bad rows are counted and stop no other.

    Raises:
        ConfigError: when the file or its columns are not known, or a mapped column is missing.
        ErratadError: when the file cannot be read.
    """
    options = options or ImportOptions()
    file = open_rows(path, encoding=options.encoding, delimiter=options.delimiter)
    seen = _Seen(options)
    for line, row in _rows(file, options):
        seen.take(line, row)
        if seen.rows % BATCH == 0:
            on_rows(seen.rows)
    return seen.survey(file)


def import_file(
    path: Path, reports: Reports, options: Options | None = None, on_rows: OnRows = lambda _rows: None
) -> ImportSummary:
    """Survey a file, and store its reports.

    Raises:
        ConfigError, ErratadError: as `survey`.
        StoreUnavailableError: when the database is unreachable. Import the file again: no report is stored twice.
    """
    return store_reports(survey(path, options), reports, options, on_rows)


def store_reports(
    found: Survey,
    reports: Reports,
    options: Options | None = None,
    on_rows: OnRows = lambda _rows: None,
    *,
    trusted: bool = False,
) -> ImportSummary:
    """Store the reports of a surveyed file. `on_rows` is called after each stored batch.

    `trusted`: the operator vouches for the annotations, so they need no evidence and no confirmation.

    Raises:
        StoreUnavailableError: when the database is unreachable. Import the file again: no report is stored twice.
    """
    problems = list(found.problems)
    outcomes: Counter[Added] = Counter()
    batch: list[tuple[int, FlaggedResponse]] = []
    source = Source(channel="import", principal=TRUSTED_IMPORT if trusted else "")
    options = options or ImportOptions()
    for number, (line, row) in enumerate(_rows(found.file, options), 1):
        batch.extend((line, flagged) for flagged in _reports(row, options))
        if len(batch) >= BATCH:
            problems.extend(_store(batch, reports, outcomes, source))
            batch.clear()
            on_rows(number)
    problems.extend(_store(batch, reports, outcomes, source))
    return ImportSummary(survey=found, outcomes=dict(outcomes), problems=tuple(problems))


class _Seen:
    """Counts of the rows read so far."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.rows = 0
        self._columns: dict[str, None] = {}
        self._shapes: Counter[str] = Counter()
        self._reports = 0
        self._first: list[tuple[int, FlaggedResponse]] = []
        self._left_out: dict[str, LeftOut] = {}
        self._problems: list[RowProblem] = []
        self._unknown = 0

    def take(self, line: int, row: Mapping[str, object] | RowError) -> None:
        self.rows += 1
        try:
            if isinstance(row, RowError):
                raise row
            if len(self._columns) < MAX_COLUMNS:
                self._columns.update(dict.fromkeys(row))
            reading = _read(row, self._options)
        except LeftOutError as exc:
            known = self._left_out.get(str(exc))
            self._left_out[str(exc)] = LeftOut(
                rows=1 if known is None else known.rows + 1, first_line=line if known is None else known.first_line
            )
        except RowError as exc:
            self._unknown += isinstance(exc, UnknownShapeError)
            self._problems.append(RowProblem(line=line, field=exc.field, detail=exc.detail))
        else:
            self._shapes[reading.shape] += 1
            self._reports += len(reading.reports)
            self._first += [(line, one) for one in reading.reports][: SHOWN_REPORTS - len(self._first)]

    def survey(self, file: RowFile) -> Survey:
        columns = tuple(self._columns)
        names = {column_name(name) for name in columns}
        mapped = self._options.columns if isinstance(self._options, ImportOptions) else {}
        missing = [name for name in mapped.values() if not _has(columns, names, name)]
        if missing and self.rows:
            raise ConfigError(f"--map: {file.path} has no column {missing[0]!r}; its columns are {_listed(columns)}")
        if self._unknown and self._unknown + self._unparsed() == self.rows:
            raise ConfigError(
                f"{file.path} ({file.text}) has none of the columns that erratad knows; its columns are "
                f"{_listed(columns)}. Say which hold what, e.g. --map prompt=question --map response=answer"
            )
        return Survey(
            file=file,
            columns=columns,
            rows=self.rows,
            shapes=dict(self._shapes),
            reports=self._reports,
            first=tuple(self._first),
            left_out=dict(self._left_out),
            problems=tuple(self._problems),
        )

    def _unparsed(self) -> int:
        return sum(problem.field == "row" for problem in self._problems) - self._unknown


def _has(columns: tuple[str, ...], names: set[str], name: str) -> bool:
    """Whether the file has the column, or the first part of a path into it."""
    return name in columns or column_name(name) in names or name.partition(".")[0] in columns


def _listed(columns: tuple[str, ...]) -> str:
    shown = ", ".join(str(name)[:40] for name in columns[:20])
    return f"{shown} and {len(columns) - 20} more" if len(columns) > 20 else shown or "(none)"


def _rows(file: RowFile, options: Options) -> Iterator[tuple[int, Mapping[str, object] | RowError]]:
    """Every row of the file; objects that hold rows are opened."""
    for line, row in file.rows():
        if isinstance(row, RowError):
            yield line, row
        elif isinstance(options, ImportOptions):
            yield from ((line, inner) for inner in unwrapped(row))
        else:
            yield from ((line, inner) for inner in _items(row, options))


def _items(row: Mapping[str, object], product: ProductFile) -> list[Mapping[str, object] | RowError]:
    try:
        found = items_of(product.product, row)
    except RowError as exc:
        return [exc]
    return [one if isinstance(one, Mapping) else RowError("item", "must be an object") for one in found]


def _read(row: Mapping[str, object], options: Options) -> Reading:
    """Raises RowError, LeftOutError."""
    if isinstance(options, ImportOptions):
        return read_row(row, options)
    return Reading(shape=title_of(options.product), reports=(options.report_of(row),))


def _reports(row: Mapping[str, object] | RowError, options: Options) -> tuple[FlaggedResponse, ...]:
    """The reports of a row; none for a row that the survey names."""
    if isinstance(row, RowError):
        return ()
    try:
        return _read(row, options).reports
    except (LeftOutError, RowError):
        return ()


def _store(
    batch: list[tuple[int, FlaggedResponse]], reports: Reports, outcomes: Counter[Added], source: Source
) -> Iterator[RowProblem]:
    added = reports.add([(flagged, source) for _, flagged in batch], reporter_cap=NO_CAP)
    for (line, flagged), outcome in zip(batch, added, strict=True):
        outcomes[outcome] += 1
        if outcome == Added.CONFLICT:
            detail = f"report {flagged.id} is stored already with other content; it stays as it is"
            yield RowProblem(line=line, field="row", detail=detail)
        elif outcome == Added.TOO_MUCH:
            yield RowProblem(line=line, field="row", detail=TOO_MUCH)
