"""The only place with SQL. `Store` groups the tables by the stage that owns them."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine

from daemon.config import Config, secret
from daemon.store.adapters import Adapters
from daemon.store.control import Control
from daemon.store.engine import connect
from daemon.store.migrate import migrate
from daemon.store.reports import Added, Reports
from daemon.store.runs import Runs

__all__ = ["Added", "Adapters", "Control", "Reports", "Runs", "Store", "open_store"]


@dataclass(frozen=True, slots=True)
class Store:
    """All tables of one database."""

    engine: Engine
    reports: Reports
    runs: Runs
    adapters: Adapters
    control: Control

    def close(self) -> None:
        self.engine.dispose()


def open_store(config: Config) -> Store:
    """Connect, migrate to the newest schema, and make sure that the base generation exists.

    Raises:
        StoreUnavailableError: when the database cannot be reached.
    """
    engine = connect(config.store_url, secret(config.store.password_env))
    migrate(engine)
    store = Store(
        engine=engine,
        reports=Reports(engine),
        runs=Runs(engine),
        adapters=Adapters(engine),
        control=Control(engine),
    )
    store.adapters.ensure_base(config.serving.alias)
    return store
