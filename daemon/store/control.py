"""Shared state of the running daemons: pauses, leader leases and the stages' heartbeats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, or_, select, update

from daemon.records import utcnow
from daemon.store import rows, schema
from daemon.store.audit import record_audit
from daemon.store.engine import commits_of, database_time, insert, reading, transaction, upsert
from daemon.store.recent import Recent

ALL_STAGES = "all"
DAEMON_SILENT_S = 30.0
"""Stages write a heartbeat every 5 s. A daemon counts as ended if all of its heartbeats are older than this."""
HEARTBEATS_KEPT = timedelta(days=1)
"""How long the last heartbeats of an ended daemon are kept: every start of a daemon adds some under a new owner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    stage: str
    actor: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """A stage's last sentence, and the time of its last step."""

    name: str
    owner: str
    last_step_at: datetime
    sentence: str


class Control:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._recent = Recent(self.pauses, commits_of(engine))

    # --- pauses ---

    def pause(self, stage: str, *, actor: str, reason: str) -> None:
        """Pause one stage, or `all`; running steps end, new ones do not start."""
        with transaction(self._engine) as connection:
            upsert(
                connection,
                schema.pauses,
                ["stage"],
                {"stage": stage, "actor": actor, "reason": reason, "at": utcnow()},
            )
            record_audit(connection, actor=actor, action="pause", subject=stage, reason=reason)

    def resume(self, stage: str, *, actor: str, reason: str) -> bool:
        """Lift a pause; False if there was none. `all` lifts every pause."""
        table = schema.pauses
        query = table.delete() if stage == ALL_STAGES else table.delete().where(table.c.stage == stage)
        with transaction(self._engine) as connection:
            lifted = connection.execute(query).rowcount > 0
            if lifted:
                record_audit(connection, actor=actor, action="resume", subject=stage, reason=reason)
        return lifted

    def pauses(self) -> list[Pause]:
        with reading(self._engine) as connection:
            found = connection.execute(select(schema.pauses).order_by(schema.pauses.c.stage)).all()
        return [rows.record(Pause, row) for row in found]

    def paused(self, stage: str, *, max_age_s: float = 0.0) -> Pause | None:
        """The pause of a stage. `max_age_s`: how old the answer may be. Pauses of this process show at once."""
        pauses = self._recent.get(max_age_s=max_age_s)
        return next((pause for pause in pauses if pause.stage in {stage, ALL_STAGES}), None)

    # --- leader leases and heartbeats ---

    def lead(self, name: str, *, owner: str, ttl_s: float, term: int | None = None) -> int | None:
        """Take or renew the named leadership. Returns its term, or None while another owner holds it.

        A term lasts as long as its owner renews it, and nobody else leads in between. A new one has a higher number
        than all before, also after the database was made anew or restored: it is the database's time in milliseconds.

        Args:
            term: The term to renew; None: begin a new one, as an owner does that was started again.
        """
        table = schema.leases
        lasts, mine = timedelta(seconds=ttl_s), table.c.name == name
        with transaction(self._engine, makes_work=False) as connection:
            now = database_time(connection)
            if term is not None:
                renewed = update(table).where(mine, table.c.owner == owner, table.c.term == term)
                if connection.execute(renewed.values(until=now + lasts)).rowcount:
                    return term
            new = insert(connection, table).values(name=name, owner=owner, until=now)
            connection.execute(new.on_conflict_do_nothing())
            vacant = select(table.c.term).where(mine, or_(table.c.owner == owner, table.c.until <= now))
            if connection.execute(vacant).first() is None:
                return None
            # waits for the transactions of the term that ends; the row may change meanwhile
            last = connection.execute(vacant.with_for_update()).scalar_one_or_none()
            if last is None:
                return None
            now = database_time(connection)
            number: int = max(last + 1, int(now.timestamp() * 1000))
            connection.execute(update(table).where(mine).values(owner=owner, term=number, until=now + lasts))
            return number

    def abdicate(self, name: str, *, owner: str) -> None:
        """End the leadership now, so that another daemon can lead at once."""
        table = schema.leases
        with transaction(self._engine, makes_work=False) as connection:
            ended = update(table).where(table.c.name == name, table.c.owner == owner)
            connection.execute(ended.values(until=database_time(connection)))

    def require_lead(self) -> None:
        """To be called before the files of a run are changed: they have no transaction that checks the term.

        Raises:
            NotLeadingError: The work that this thread does belongs to a leader, and another daemon leads now.
        """
        with transaction(self._engine, makes_work=False):
            pass

    def heartbeat(self, sentences: Mapping[str, str], *, owner: str) -> None:
        """Write that these stages of a daemon live, each with its sentence, in one statement."""
        now = utcnow()
        given = [
            {"name": name, "owner": owner, "last_step_at": now, "sentence": sentence}
            for name, sentence in sorted(sentences.items())  # in one order: two writers must not wait for each other
        ]
        with transaction(self._engine, makes_work=False) as connection:
            statement = insert(connection, schema.stages)
            said = {name: statement.excluded[name] for name in ("last_step_at", "sentence")}
            connection.execute(statement.on_conflict_do_update(index_elements=["name", "owner"], set_=said), given)

    def heartbeats(self, *, max_age_s: float = 3600.0) -> list[Heartbeat]:
        """The last step of each stage. Leaves out daemons that fell silent while another one went on."""
        table = schema.stages
        query = (
            select(table)
            .where(table.c.last_step_at > utcnow() - timedelta(seconds=max_age_s))
            .order_by(table.c.name, table.c.owner)
        )
        with reading(self._engine) as connection:
            found = connection.execute(query).all()
        spoke: dict[str, datetime] = {}
        for row in found:
            spoke[row.owner] = max(row.last_step_at, spoke.get(row.owner, row.last_step_at))
        since = max(spoke.values(), default=utcnow()) - timedelta(seconds=DAEMON_SILENT_S)
        return [rows.record(Heartbeat, row) for row in found if spoke[row.owner] >= since]

    def forget_ended(self, *, before: datetime) -> int:
        """Delete the heartbeats older than this; returns their number."""
        table = schema.stages
        with transaction(self._engine) as connection:
            return connection.execute(table.delete().where(table.c.last_step_at < before)).rowcount
