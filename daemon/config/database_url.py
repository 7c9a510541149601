"""What `store.url` names. SQLAlchemy takes 0.2 s of CPU to import, so it is imported only where a URL is looked at."""

from __future__ import annotations

from pathlib import Path


def store_url_problem(url: str) -> str | None:
    """The problem of a database URL, or None. The text does not contain the password."""
    from sqlalchemy.engine import make_url  # noqa: PLC0415
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return "is not a database URL; write sqlite:////path/to/file or postgresql://user@host:5432/name"
    backend = parsed.get_backend_name()
    if backend == "sqlite" and parsed.database in {None, "", ":memory:"}:
        return "names no file, so everything would be lost; write sqlite:////path/to/file"
    return None if backend in {"sqlite", "postgresql"} else f"{backend} is not supported; use sqlite or postgresql"


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite database; None for another database, or a URL with a problem."""
    from sqlalchemy.engine import make_url  # noqa: PLC0415

    if store_url_problem(url) is not None:
        return None
    parsed = make_url(url)
    return Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None
