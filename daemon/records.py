"""The records shared by the modules, and their states. `daemon.transitions` says which changes are legal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import ConfigDict

from connectors.messages import ChatMessage, FlaggedResponse
from daemon.categories import Kind
from daemon.parts import Analysis, Categorised, Part

ACTOR = "erratad"
"""The actor in intents and audit if the daemon itself decides."""
MAX_NUMBER = 2**31 - 1
"""The largest value of an integer column in both databases."""
BASE_GENERATION = 0
"""The generation number of the model without an adapter."""
INDUCED = "induced"
"""Principal, channel and reporter of the reports that `daemon.induction.stage` files.

Only the principal proves it: anybody may name this reporter, but no sender can be it (see `daemon.config.sources`).
"""
TRUSTED_IMPORT = "trusted-import"
"""Principal of the reports of a file that an operator imported with `--trusted`."""
TEMPLATE_ANALYST = "template"
COMPLETE_JSON = ConfigDict(json_schema_serialization_defaults_required=True)
"""For records that the HTTP API returns as they are: its schema says that a field with a default is always there."""


def utcnow() -> datetime:
    return datetime.now(UTC)


class ReportState(StrEnum):
    QUEUED = "queued"
    REFLECTING = "reflecting"
    LESSON = "lesson"
    RESOLVED = "resolved"
    RECURRING = "recurring"
    IMPROVED = "improved"
    NOT_REPRODUCED = "not-reproduced"
    DUPLICATE = "duplicate"
    QUARANTINED = "quarantined"
    BURIED = "buried"
    ERASED = "erased"


class AdapterState(StrEnum):
    TRAINING = "training"
    CANDIDATE = "candidate"
    SHADOW = "shadow"
    CANARY = "canary"
    LIVE = "live"
    RETIRED = "retired"
    FAILED = "failed"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled-back"


class RunState(StrEnum):
    """States of a training run; each names the stage that acts next."""

    PREPARING = "preparing"
    TRAINING = "training"
    EVALUATING = "evaluating"
    PROMOTING = "promoting"
    PROMOTED = "promoted"
    REJECTED = "rejected"
    FAILED = "failed"


class IntentState(StrEnum):
    PENDING = "pending"
    DONE = "done"
    REFUSED = "refused"


ACTIVE_RUN_STATES = (RunState.PREPARING, RunState.TRAINING, RunState.EVALUATING, RunState.PROMOTING)


class Trigger(StrEnum):
    """The trigger of a training run, or of an induction run (never by a threshold)."""

    CRON = "cron"
    THRESHOLD = "threshold"
    MANUAL = "manual"


class IntentKind(StrEnum):
    """Kinds of requests from an operator (or a rule); the stage that owns the kind completes them."""

    TRAIN = "train"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    INDUCE = "induce"


class Split(StrEnum):
    """The side of a cluster of similar reports; it never changes."""

    TRAIN = "train"
    HOLDOUT = "holdout"


class CorrectionSource(StrEnum):
    USER = "user"
    GUIDED = "guided"
    ANALYST = "analyst"
    REVIEWER = "reviewer"


class Evidence(StrEnum):
    """What is known about whether the model gave the flagged answer; each value says more than the one before."""

    CONTRADICTED = "contradicted"
    """The server's own record of the exchange holds another answer."""
    CLAIMED = "claimed"
    """The report says so."""
    REPRODUCED = "reproduced"
    """Asked again, the model made the mistake again."""
    VERIFIED = "verified"
    """The server's own record of the exchange holds this answer."""


class AfterErasure(StrEnum):
    """What becomes of the adapters that were trained on a report that is erased."""

    KEEP = "keep"
    """They stay, marked."""
    RETIRE = "retire"
    """The live one is rolled back to a generation that was not trained on it; their files are removed."""
    RETRAIN = "retrain"
    """A run without it is requested; their files are removed when another generation is live."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """A report's erasure. `lessons`: the reports whose lesson held its text, its own id among them."""

    __pydantic_config__ = COMPLETE_JSON

    report_id: str
    erased_at: datetime
    actor: str
    after: AfterErasure
    lessons: tuple[str, ...]
    certificate: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The origin of a report: a Kafka record's coordinates, or 'http', 'import', 'induced' without coordinates.

    `principal` is who was authenticated: a token's name, a user named by a proxy, or a topic. Left out: the channel.
    """

    channel: str
    principal: str = ""
    partition: int | None = None
    offset: int | None = None

    def __post_init__(self) -> None:
        if not self.principal:
            object.__setattr__(self, "principal", self.channel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(Categorised):
    """A flagged response and its state."""

    id: str
    state: ReportState
    flagged: FlaggedResponse
    source: Source
    received_at: datetime
    updated_at: datetime
    sent_id: str = ""
    """The id that its principal gave it. `id` is the same, unless another principal used it first."""
    evidence: Evidence = Evidence.CLAIMED
    evidence_detail: str | None = None
    """How the evidence was found, or why none was."""
    evidence_at: datetime | None = None
    """When evidence was last looked for; None: not yet."""
    attempts: int = 0
    next_attempt_at: datetime | None = None
    state_reason: str | None = None
    duplicate_of: str | None = None
    cluster_id: int | None = None
    resolved_generation: int | None = None
    lease_owner: str | None = None
    guessed_kind: Kind | None = None
    guessed_by: str | None = None
    others: tuple[Part, ...] = ()
    """The parts of the other reports of the same answer, oldest first. `daemon.text.merging` combines them."""

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part.of(self.flagged, received_at=self.received_at, principal=self.source.principal), *self.others)

    @property
    def messages(self) -> list[ChatMessage]:
        return self.flagged.messages

    @property
    def prompt_text(self) -> str:
        """The last user message; clusters and near-duplicate detection compare it."""
        return last_question([(message.role, message.text) for message in self.messages])


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """The analysis of one report, and a corrected answer if one was approved. A weight: something is set aside."""

    __pydantic_config__ = COMPLETE_JSON

    report_id: str
    analysis: str
    analyst: str
    template: str
    created_at: datetime
    correction: str | None = None
    correction_source: CorrectionSource | None = None
    review_weight: int | None = None
    set_aside_from: str | None = None
    reviewed_by: str | None = None
    reviewed_at: datetime | None = None
    judged_better: bool | None = None
    """Whether a judge prefers the correction to the flagged answer; None: not asked, or without a clear answer."""
    generation: int | None = None
    analyses: tuple[Analysis, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A group of near-identical prompts of one category; `split` never changes."""

    id: int
    category: str
    leader_text: str
    split: Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One pass of dataset, training, evaluation and promotion; owns exactly one adapter generation."""

    id: int
    state: RunState
    trigger: Trigger
    requested_by: str
    created_at: datetime
    updated_at: datetime
    generation: int
    base_generation: int
    recipe: str
    seed: int
    folder: str
    reason: str | None = None
    progress: Mapping[str, Any] = field(default_factory=dict)
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunItem:
    """A report used by a run, and its split."""

    run_id: int
    report_id: str
    cluster_id: int
    role: Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One generation. Its weights are at `path`; every server knows it as `name`.

    Generation 0 is the base model: it has no run and no path, and is live until the first promotion.
    """

    __pydantic_config__ = COMPLETE_JSON

    generation: int
    name: str
    state: AdapterState
    run_id: int | None
    created_at: datetime
    updated_at: datetime
    path: str | None = None
    sha256: str | None = None
    reason: str | None = None
    promoted_at: datetime | None = None
    retired_at: datetime | None = None
    files_removed_at: datetime | None = None
    """The time at which `daemon.operations.retention` removed the folder. The generation cannot go live again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRun:
    """A trial of a candidate beside the live generation, as started. `mode` is the adapter's state."""

    generation: int
    name: str
    mode: AdapterState
    share: float
    concurrency: int
    started_at: datetime


def served_name(adapter: Adapter, base_name: str) -> str:
    """The model name of this generation in a server; requests under it get no guidance."""
    return base_name if adapter.generation == BASE_GENERATION else adapter.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Induction:
    """One run of questions that provoke mistakes.

    `position` is the index of the next question; the following run continues there. `kept` answers became reports.
    """

    id: int
    trigger: Trigger
    requested_by: str
    position: int
    asked: int
    kept: int
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One measured answer, unique per (run, suite, item, arm, guided, sample). Sample 0 is greedy."""

    run_id: int
    suite: str
    item_id: str
    arm: str
    guided: bool
    text: str
    passed: bool | None = None
    margin: float | None = None
    bits_per_token: float | None = None
    cut: bool | None = None
    """Whether the answer was cut at the token limit; None if unknown."""
    sample: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The gate's decision on one run's candidate, with its reasons and all figures."""

    run_id: int
    generation: int
    accepted: bool
    reasons: tuple[str, ...]
    figures: Mapping[str, Any]
    decided_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """An operator's request, queued so that it works the same way from command line, API and console."""

    __pydantic_config__ = COMPLETE_JSON

    id: int
    kind: IntentKind
    state: IntentState
    actor: str
    reason: str
    created_at: datetime
    target_generation: int | None = None
    outcome: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    at: datetime
    actor: str
    action: str
    subject: str
    reason: str


def last_question(turns: Sequence[tuple[str, str]]) -> str:
    """The last user message of the turns (role and text), or the last message if no turn is the user's."""
    return next((text for role, text in reversed(turns) if role == "user"), turns[-1][1])


def conversation(report: Report | FlaggedResponse) -> tuple[Mapping[str, Any], ...]:
    """The conversation in the format of chat templates."""
    return tuple(message.turn() for message in report.messages)
