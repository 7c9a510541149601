"""The only place with SQL. `Store` groups the tables by the stage that owns them. Read `schema` first."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine

from daemon.config import Config
from daemon.config.secret import secret
from daemon.config.serving import ServingConfig
from daemon.errors import ErratadError
from daemon.privacy.redact import Redactor
from daemon.store.adapters import Adapters
from daemon.store.anew import Anew
from daemon.store.archive import Archive
from daemon.store.audit import Audit
from daemon.store.candidates import Tenants
from daemon.store.changes import Changes
from daemon.store.clusters import Clusters, Placing
from daemon.store.control import Control
from daemon.store.counts import Counts
from daemon.store.engine import connect
from daemon.store.erasures import Erasures
from daemon.store.evidence import ReportEvidence
from daemon.store.flags import Flags
from daemon.store.inductions import Inductions
from daemon.store.intake import Added
from daemon.store.intents import Intents
from daemon.store.left_out import LeftOutReports
from daemon.store.migrate import migrate
from daemon.store.originals import Originals
from daemon.store.outbox import Outbox
from daemon.store.reports import Reports
from daemon.store.retests import Retests
from daemon.store.reviews import Reviews
from daemon.store.runs import Runs
from daemon.store.search_index import SearchIndex
from daemon.store.sign_outs import SignOuts
from daemon.store.signal_table import Signal
from daemon.store.signals import Signals
from daemon.store.traffic import Traffic
from daemon.store.trends import Trends
from daemon.store.trials import Trials
from daemon.store.unused import Unused
from daemon.store.witnesses import Witnesses

__all__ = [
    "Adapters",
    "Added",
    "Archive",
    "Audit",
    "Changes",
    "Clusters",
    "Control",
    "Counts",
    "Erasures",
    "Flags",
    "Inductions",
    "Intents",
    "LeftOutReports",
    "Originals",
    "Outbox",
    "Placing",
    "ReportEvidence",
    "Reports",
    "Retests",
    "Reviews",
    "Runs",
    "SearchIndex",
    "SignOuts",
    "Signal",
    "Signals",
    "Store",
    "Traffic",
    "Trials",
    "Unused",
    "Witnesses",
    "open_store",
]

DEFAULT_ALIAS: str = ServingConfig.model_fields["alias"].default


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """All tables of one database."""

    engine: Engine
    inductions: Inductions
    reports: Reports
    anew: Anew
    counts: Counts
    evidence: ReportEvidence
    clusters: Clusters
    reviews: Reviews
    retests: Retests
    runs: Runs
    adapters: Adapters
    intents: Intents
    control: Control
    traffic: Traffic
    flags: Flags
    trials: Trials
    left_out: LeftOutReports
    outbox: Outbox
    archive: Archive
    audit: Audit
    changes: Changes
    erasures: Erasures
    originals: Originals
    search_index: SearchIndex
    sign_outs: SignOuts
    signals: Signals
    trends: Trends
    unused: Unused
    witnesses: Witnesses

    def close(self) -> None:
        self.engine.dispose()


def open_store(source: Config | str, *, alias: str = DEFAULT_ALIAS) -> Store:
    """Connect, migrate to the newest schema, and create the base generation if it is missing.

    Args:
        source: The configuration, or only a database URL; then reports are stored as they come.
        alias: The alias in the base generation's name. A configuration's own alias overrides it.

    Raises:
        ConfigError: The URL is no SQLite or PostgreSQL URL.
        StoreVersionError: The database belongs to a newer erratad, or to another program.
        StoreUnavailableError: The database cannot be reached.
    """
    redactor: Redactor | None = None
    tenants: Tenants | None = None
    if isinstance(source, str):
        engine = connect(source)
    else:
        redactor = Redactor(source)
        tenants = None if source.dataset.tenants == "all" else source.dataset.tenants
        engine = connect(source.store_url, secret(source.store.password_env), silent_s=source.store.lease_s)
        alias = source.serving.alias
    store = Store(
        engine=engine,
        inductions=Inductions(engine, redactor),
        reports=Reports(engine, redactor, tenants=tenants),
        anew=Anew(engine),
        counts=Counts(engine),
        evidence=ReportEvidence(engine),
        clusters=Clusters(engine),
        reviews=Reviews(engine),
        retests=Retests(engine),
        runs=Runs(engine),
        adapters=Adapters(engine),
        intents=Intents(engine),
        control=Control(engine),
        traffic=Traffic(engine),
        flags=Flags(engine),
        trials=Trials(engine),
        left_out=LeftOutReports(engine),
        outbox=Outbox(engine),
        archive=Archive(engine),
        audit=Audit(engine),
        changes=Changes(engine),
        erasures=Erasures(engine),
        originals=Originals(engine),
        search_index=SearchIndex(engine),
        sign_outs=SignOuts(engine),
        signals=Signals(engine, redactor, tenants=tenants),
        trends=Trends(engine),
        unused=Unused(engine),
        witnesses=Witnesses(engine),
    )
    try:
        migrate(engine)
        store.adapters.ensure_base(alias)
    except ErratadError:
        store.close()
        raise
    return store
