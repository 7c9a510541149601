"""Stage "evidence": did the model give the flagged answers? One look per report; operators may ask for another.

A report says what the model answered, and anybody who may send reports may claim anything. A report with a completion
id is compared with what the servers remember of it (`daemon.evidence.exchange`). If they remember nothing, the stage
asks the model again (`daemon.evidence.reproduction`). The result is stored with the report. Failures and their limits:

- No server is ready, or a trivial question fails, too: the stage waits. The interrupted reports are tried again, each
  at most MAX_REFUNDS times without counting, because a report itself may crash the servers. After an outage, reports
  are tried one at a time until one gets its answers.
- A server refuses the conversation (HTTP 400, 413, 422): the report stays `claimed`, with the reason.
- A request fails while the servers answer others: the report is tried again later, at most ATTEMPTS times.

A crash loses the results of one step; the reports are asked again then.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import structlog

from connectors.chat import EndpointError
from connectors.vllm_wire import Exchange
from daemon import metrics
from daemon.config.serving import ServingConfig
from daemon.config.trust import TrustConfig
from daemon.errors import ServingError, StoppedError
from daemon.evidence.exchange import Clean, Match, Verification, verify
from daemon.evidence.remembered import remembered
from daemon.evidence.reproduction import Finding, Reproduction, not_asked
from daemon.labels import Look
from daemon.records import Evidence, Report
from daemon.runtime.backoff import Backoff
from daemon.runtime.stage import UNTIL_WRITTEN_S, Life, Step
from daemon.serving.fleet import Fleet
from daemon.store import Store

log = structlog.get_logger(__name__)

ATTEMPTS = 3
MAX_REFUNDS = 5
BACKOFF = Backoff(first_s=5.0, limit_s=60.0)
"""Wait during an outage, and before a failed report is tried again."""
TRUSTED = "not looked for: its source is trusted"

Failure = EndpointError | ServingError | StoppedError
_FOUND = {
    Look.VERIFIED: "{} verified",
    Look.CONTRADICTED: "{} contradicted",
    Look.REPRODUCED: "{} reproduced",
    Look.NOT_REPRODUCED: "{} not reproduced",
    Look.NOT_ASKED: "{} not asked",
}


class EvidenceStage:
    """Looks for the evidence of a few reports per step. Only the leading daemon runs it.

    `trusted` says whether the source of a report needs no evidence. `clean` is what intake does to a report.
    """

    name = "evidence"
    idle_s = 2.0

    def __init__(
        self,
        *,
        store: Store,
        fleet: Fleet,
        config: TrustConfig,
        serving: ServingConfig,
        trusted: Callable[[Report], bool],
        clean: Clean,
    ) -> None:
        self._evidence = store.evidence
        self._fleet = fleet
        self._exchanges = serving.exchanges.enabled
        self._config = config.reproduce
        self._reproduction = Reproduction(store=store, fleet=fleet, config=config.reproduce, serving=serving)
        self._trusted = trusted
        self._clean = clean
        self._turn = ""
        """The principal that was served last."""
        self._attempts: Counter[str] = Counter()
        self._refunds: Counter[str] = Counter()
        self._later: dict[str, float] = {}
        """The time before which a report that failed is not tried again."""
        self._outages = 0
        self._retry_at_s = 0.0
        self._problem = ""

    def step(self, life: Life) -> Step:
        if not self._config.samples and not self._exchanges:
            return Step(sentence="off: trust.reproduce.samples is 0", rest_s=UNTIL_WRITTEN_S)
        now = time.monotonic()
        if now < self._retry_at_s:
            return Step(sentence=self._problem)
        self._later = {report_id: at for report_id, at in self._later.items() if now < at}
        limit = 1 if self._outages else self._config.concurrency or self._fleet.asking.limit
        due = self._evidence.due(limit=limit, after=self._turn, skip=self._later)
        if not due:
            later = f"; {len(self._later)} are tried again later" if self._later else ""
            return Step(sentence=f"no report waits for evidence{later}", rest_s=UNTIL_WRITTEN_S)
        self._turn = due[-1].source.principal
        return self._look(due, life)

    def _look(self, due: Sequence[Report], life: Life) -> Step:
        found: Counter[Look] = Counter()
        ids = [report.flagged.completion_id for report in due if report.flagged.completion_id is not None]
        known = remembered(self._fleet, ids) if self._exchanges else {}
        asked = self._fleet.asking.each(due, lambda report: self._found(report, known, life), name=self.name)
        failed = []
        for report, result in [(report, future.result()) for done in asked for report, future in done]:
            if isinstance(result, Finding):
                self._record(report, result, found)
            else:
                failed.append((report, result))
        self._fail(failed, found)
        if self._problem:
            return Step(sentence=self._problem)
        return Step(sentence=_sentence(found, len(failed)), worked=not life.stopping)

    def _found(self, report: Report, known: Mapping[str, Sequence[Exchange]], life: Life) -> Finding | Failure:
        """Runs in a worker thread."""
        exchanges = known.get(report.flagged.completion_id or "", ())
        verified = verify(report.flagged, exchanges, self._fleet.preparation, clean=self._clean)
        if verified is not None and verified.match is not Match.UNKNOWN:
            return _verdict(verified)
        if self._trusted(report):
            return not_asked(TRUSTED)
        if not self._config.samples:
            return not_asked("not asked again: trust.reproduce.samples is 0")
        try:
            return self._reproduction.look(report, life)
        except (EndpointError, ServingError, StoppedError) as exc:
            return exc

    def _record(self, report: Report, finding: Finding, found: Counter[Look]) -> None:
        if finding.result in {Look.REPRODUCED, Look.NOT_REPRODUCED}:
            self._outages = 0
        for counted in (self._attempts, self._refunds):
            counted.pop(report.id, None)
        if self._evidence.record(report.id, finding.evidence, finding.detail, generation=finding.generation):
            found[finding.result] += 1
            metrics.EVIDENCE.labels(result=finding.result).inc()
            log.info("evidence", report_id=report.id, result=finding.result, detail=finding.detail)

    def _fail(self, failed: Sequence[tuple[Report, Failure]], found: Counter[Look]) -> None:
        """Decide from all failures together whether the servers are out, and what follows for each report."""
        self._problem = ""
        errors = [(report, error) for report, error in failed if not isinstance(error, StoppedError)]
        if not errors:
            return
        out = self._reproduction.is_out(errors[0][1])
        if out:
            self._outages += 1
            self._retry_at_s = time.monotonic() + BACKOFF.delay_s(self._outages)
            self._problem = f"waiting for the servers: {errors[0][1]}"
        for report, error in errors:
            if not (out and self._refunded(report, error)):
                self._count_attempt(report, error, found)

    def _refunded(self, report: Report, error: Failure) -> bool:
        """Whether the attempt does not count. No server was ready: never the report's fault."""
        if isinstance(error, ServingError):
            return True
        self._refunds[report.id] += 1
        return self._refunds[report.id] <= MAX_REFUNDS

    def _count_attempt(self, report: Report, error: Failure, found: Counter[Look]) -> None:
        self._attempts[report.id] += 1
        attempt = self._attempts[report.id]
        log.warning("no answer for evidence", report_id=report.id, attempt=attempt, reason=str(error))
        if attempt >= ATTEMPTS:
            self._record(report, not_asked(f"asked {attempt} times without an answer"), found)
        else:
            self._later[report.id] = time.monotonic() + BACKOFF.delay_s(attempt)


def _verdict(verified: Verification) -> Finding:
    if verified.match is Match.SAME:
        detail = f"{verified.generation} gave this answer"
        return Finding(evidence=Evidence.VERIFIED, result=Look.VERIFIED, detail=detail, generation=verified.generation)
    return Finding(evidence=Evidence.CONTRADICTED, result=Look.CONTRADICTED, detail=verified.match.value)


def _sentence(found: Counter[Look], failed: int) -> str:
    parts = [text.format(found[result]) for result, text in _FOUND.items() if found[result]]
    if failed:
        parts.append(f"{failed} to try again")
    count = found.total() + failed
    return f"looked for the evidence of {count} report{'' if count == 1 else 's'}: {', '.join(parts) or 'stopped'}"
