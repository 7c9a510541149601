"""The daemon's status, as data (`status`) and as text (`sentences`)."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from pydantic import Field

from daemon import __version__
from daemon.config import Config
from daemon.config.rollout import RolloutConfig
from daemon.labels import Names
from daemon.operations.progress import progress_text, span
from daemon.operations.shown import View
from daemon.operations.stages import STAGES
from daemon.operations.views import InductionRow, RunRow
from daemon.promotion.approval import approval_waits_s
from daemon.promotion.sequential import rise
from daemon.promotion.trial import Action, level_of_each
from daemon.promotion.trial_figures import TrialStatus, trial_status
from daemon.promotion.voters import electorate
from daemon.records import Adapter, AdapterState, Evidence, ReportState, utcnow
from daemon.store import Store
from daemon.store.control import DAEMON_SILENT_S, Heartbeat, Pause
from daemon.store.outbox import KAFKA
from daemon.trust.policy import Policy


class StageView(View):
    name: str
    owner: str
    last_step_at: datetime
    age_s: float
    silent: bool
    """Whether the last step is so long ago that its daemon seems to have ended."""
    sentence: str

    @classmethod
    def of(cls, beat: Heartbeat, now: datetime) -> StageView:
        age_s = max(0.0, (now - beat.last_step_at).total_seconds())
        return cls(
            name=beat.name,
            owner=beat.owner,
            last_step_at=beat.last_step_at,
            age_s=age_s,
            silent=age_s >= DAEMON_SILENT_S,
            sentence=beat.sentence,
        )


class InductionView(View):
    """The latest induction run, and the start time of the next one."""

    last: InductionRow | None
    next_cron: datetime | None


class RateView(View):
    """One rate, of the candidate on trial and of the live generation."""

    name: str
    candidate_events: int
    candidate_requests: int
    live_events: int
    live_requests: int
    p_value: float
    """Anytime-valid p-value of a rise. Below `level` the candidate is withdrawn."""
    level: float


class TrialView(View):
    """A candidate on trial beside the live generation, and the decision by the present figures."""

    generation: int
    name: str
    mode: AdapterState
    share: float
    started_at: datetime
    age_s: float
    min_requests: int
    """Number of requests that each generation must answer before a decision."""
    max_duration_s: float
    rates: list[RateView]
    course: Action
    reason: str

    @classmethod
    def of(cls, now: TrialStatus, config: RolloutConfig) -> TrialView:
        return cls(
            generation=now.trial.generation,
            name=now.trial.name,
            mode=now.trial.mode,
            share=now.trial.share,
            started_at=now.trial.started_at,
            age_s=now.age_s,
            min_requests=config.min_requests,
            max_duration_s=config.max_duration_s,
            rates=[
                RateView(
                    name=name,
                    candidate_events=pair.candidate.events,
                    candidate_requests=pair.candidate.requests,
                    live_events=pair.live.events,
                    live_requests=pair.live.requests,
                    p_value=rise(pair.candidate, pair.live, tolerance=config.tolerance).p_value,
                    level=level_of_each(now.pairs, config),
                )
                for name, pair in now.pairs.items()
            ],
            course=now.ruling.action,
            reason=now.ruling.reason,
        )


class StatusView(View):
    version: str
    at: datetime
    daemon_runs: bool
    summary: list[str] = Field(default=[])
    """The status as sentences."""
    stages: list[StageView]
    pauses: list[Pause]
    reports: dict[ReportState, int]
    archived: int
    """Reports in the files of the archive, beside `reports`."""
    oldest_queued_age_s: float | None
    evidence: dict[Evidence, int]
    """Reports that are queued, analysed or lessons, by what is known about whether the model gave the answer."""
    evidence_waiting: int
    """Reports whose evidence was not looked for yet."""
    new_lessons: int
    min_lessons: int
    min_lessons_on_cron: int
    events_waiting: int
    """Events that the broker has not acknowledged yet."""
    live: Adapter
    guidance_refusals: int
    """Requests under the alias refused in the last day that would have been accepted without the guidance."""
    reports_naming: dict[Names, int] = Field(default={})
    """Reports of the last day, by what their field `model` names."""
    previous: Adapter | None
    """The default target of a rollback."""
    active_run: RunRow | None
    trial: TrialView | None
    approval_waits_s: float | None
    """How long the candidate of the active run waits for a person's approval; null: none does."""
    last_run: RunRow | None
    """The latest ended run."""
    next_cron: datetime | None
    induction: InductionView | None
    """None if induction is off."""


def status(store: Store, config: Config) -> StatusView:
    """Read the status from the store. Raises StoreUnavailableError."""
    now, policy = utcnow(), Policy.of(config)
    stages = [StageView.of(beat, now) for beat in store.control.heartbeats()]
    oldest, previous, active = store.reports.oldest_queued_at(), store.adapters.previous(), store.runs.active()
    ended = [run for run in store.runs.find(limit=2) if run.finished_at is not None]
    view = StatusView(
        version=__version__,
        at=now,
        daemon_runs=any(not stage.silent for stage in stages),
        stages=sorted(stages, key=_in_pipeline_order),
        pauses=store.control.pauses(),
        reports=store.reports.counts(),
        archived=store.archive.total(),
        oldest_queued_age_s=None if oldest is None else (now - oldest).total_seconds(),
        evidence=store.evidence.counts(),
        evidence_waiting=store.evidence.waiting(),
        new_lessons=store.reports.count_new_lessons(policy.enough(policy.config.train_analysis)),
        min_lessons=config.schedule.min_lessons,
        min_lessons_on_cron=config.schedule.min_lessons_on_cron,
        events_waiting=store.outbox.backlog(KAFKA).waiting,
        live=store.adapters.live(),
        guidance_refusals=store.traffic.guidance_refusals(since=now - timedelta(days=1)),
        reports_naming=store.flags.named(alias=config.serving.alias, base_name=config.serving.base_name),
        previous=previous,
        active_run=None if active is None else RunRow.of(active),
        trial=trial_view(store, config),
        approval_waits_s=approval_waits_s(active, now),
        last_run=RunRow.of(ended[0]) if ended else None,
        next_cron=next_cron_time(config.schedule.cron, config.schedule.timezone, now),
        induction=_induction_view(store, config, now) if config.induction.enabled else None,
    )
    return view.model_copy(update={"summary": sentences(view)})


def trial_view(store: Store, config: Config) -> TrialView | None:
    """The current trial, or None."""
    current = store.trials.current()
    if current is None:
        return None
    live, voters = store.adapters.live().generation, electorate(Policy.of(config))
    found = trial_status(store, current, live=live, config=config.rollout, voters=voters)
    return TrialView.of(found, config.rollout)


def _induction_view(store: Store, config: Config, now: datetime) -> InductionView:
    last = store.inductions.last()
    return InductionView(
        last=None if last is None else InductionRow.model_validate(last),
        next_cron=next_cron_time(config.induction.cron, config.schedule.timezone, now),
    )


def next_cron_time(cron: str | None, timezone: str, now: datetime) -> datetime | None:
    """The next time of the cron expression in this time zone, or None without an expression.

    Raises:
        ValueError, KeyError: The expression or the time zone is invalid; `check-config` explains it.
    """
    from apscheduler.triggers.cron import CronTrigger  # noqa: PLC0415 - only here

    if cron is None:
        return None
    zone = ZoneInfo(timezone)
    found: datetime | None = CronTrigger.from_crontab(cron, timezone=zone).get_next_fire_time(None, now)
    return found


def sentences(view: StatusView) -> list[str]:
    """The status as sentences, most important first."""
    return [
        _daemon(view),
        *(f"Paused: {pause.stage}, by {pause.actor}: {pause.reason}." for pause in view.pauses),
        _live(view),
        *_guidance(view),
        _reports(view),
        *_evidence(view),
        *_naming(view),
        *_runs(view),
        *_trial(view),
        *_approval(view),
        _schedule(view),
        *_induction(view),
    ]


def _in_pipeline_order(stage: StageView) -> tuple[int, str, str]:
    known = STAGES.index(stage.name) if stage.name in STAGES else len(STAGES)
    return known, stage.name, stage.owner


def _daemon(view: StatusView) -> str:
    if view.daemon_runs:
        owners = {stage.owner for stage in view.stages if not stage.silent}
        return f"The daemon runs ({', '.join(sorted(owners))}; erratad {view.version})."
    newest = min((stage.age_s for stage in view.stages), default=None)
    seen = "no step in the last hour" if newest is None else f"last step {span(newest)} ago"
    return f"No daemon seems to run: {seen}. Start one with `erratad run`."


def _live(view: StatusView) -> str:
    live = view.live
    if live.generation == 0:
        return "Live: the base model, without an adapter."
    since = "" if live.promoted_at is None else f" since {live.promoted_at:%Y-%m-%d %H:%M} UTC"
    back = "" if view.previous is None else f"; a rollback goes to {view.previous.name}"
    return f"Live: {live.name}{since}{back}."


def _guidance(view: StatusView) -> list[str]:
    if not (count := view.guidance_refusals):
        return []
    requests = "1 request" if count == 1 else f"{count} requests"
    return [f"Refused in the last day only because of the guidance: {requests} under the alias."]


def _reports(view: StatusView) -> str:
    counted = ", ".join(f"{count} {state}" for state, count in view.reports.items() if count)
    oldest = "" if view.oldest_queued_age_s is None else f"; the oldest waits for {span(view.oldest_queued_age_s)}"
    archived = f"; {view.archived} more are archived" if view.archived else ""
    return f"Reports: {counted or 'none yet'}{oldest}{archived}."


def _evidence(view: StatusView) -> list[str]:
    counted = ", ".join(f"{count} {evidence}" for evidence, count in view.evidence.items() if count)
    waiting = f"; {view.evidence_waiting} not looked at yet" if view.evidence_waiting else ""
    return [f"Evidence that the model gave the flagged answers: {counted}{waiting}."] if counted else []


def _runs(view: StatusView) -> list[str]:
    words = []
    if (run := view.active_run) is not None:
        done = progress_text(run)
        figures = f" ({done})" if done else ""
        words.append(f"Run {run.id} for generation {run.generation} is {run.state}{figures}.")
    if (last := view.last_run) is not None:
        ended = "" if last.finished_at is None else f" {span((view.at - last.finished_at).total_seconds())} ago"
        words.append(f"Last run: {last.id} (generation {last.generation}), {last.state}{ended}{because(last.reason)}.")
    return words


def _trial(view: StatusView) -> list[str]:
    if (trial := view.trial) is None:
        return []
    course = {
        Action.WAIT: "no decision yet",
        Action.PROMOTE: "goes live",
        Action.REJECT: "is withdrawn",
        Action.HOLD: "a person decides",
    }[trial.course]
    return [
        f"On trial: {trial.name}, {trial.mode} on {trial.share:.0%} for {span(trial.age_s)}, {course}: {trial.reason}."
    ]


def _naming(view: StatusView) -> list[str]:
    """Reports that no generation is held to."""
    said = {
        Names.ALIAS: "name the alias alone (generation unknown)",
        Names.OTHER: "name a model that is not served here",
    }
    parts = [f"{view.reports_naming[one]} {text}" for one, text in said.items() if view.reports_naming.get(one)]
    total = sum(view.reports_naming.values())
    return [f"Of the last day's reports ({total}), {' and '.join(parts)}."] if parts else []


def _approval(view: StatusView) -> list[str]:
    if view.approval_waits_s is None or view.active_run is None:
        return []
    number = view.active_run.generation
    waits = f"Waits for approval for {span(view.approval_waits_s)}: generation {number}, no other run starts before."
    return [f"{waits} See `erratad adapters {number}`, then `erratad promote {number}` or `erratad reject {number}`."]


def because(reason: str | None, mark: str = ": ") -> str:
    """The reason after a mark, for the end of a sentence; empty without a reason."""
    return f"{mark}{reason.rstrip('.')}" if reason else ""


def _schedule(view: StatusView) -> str:
    threshold = f"{view.new_lessons} of {view.min_lessons} new lessons until a run starts by itself"
    if view.next_cron is None:
        return f"Schedule: {threshold}; no cron time is set."
    wait = span((view.next_cron - view.at).total_seconds())
    return (
        f"Schedule: {threshold}; next cron time {view.next_cron:%Y-%m-%d %H:%M %Z} (in {wait}), "
        f"which needs {view.min_lessons_on_cron}."
    )


def _induction(view: StatusView) -> list[str]:
    if view.induction is None:
        return []
    last, following = view.induction.last, view.induction.next_cron
    if last is None:
        words = "Induction: no mistakes were asked for yet"
    else:
        when = "under way" if last.finished_at is None else f"{span((view.at - last.finished_at).total_seconds())} ago"
        words = f"Induction {last.id} ({when}): {last.kept} of {last.asked} answers kept{because(last.reason)}"
    if following is None:
        return [f"{words}; no cron time is set."]
    wait = span((following - view.at).total_seconds())
    return [f"{words}; next cron time {following:%Y-%m-%d %H:%M %Z} (in {wait})."]
