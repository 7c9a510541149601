"""`erratad submit`: sends the lines of a JSONL file to a daemon, over Kafka or HTTP.

All lines are checked first; if one is invalid, none is sent. Sending a file again is safe: no report is stored twice.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx

from connectors.kafka.consumer import KafkaUnavailableError, OutboundRecord, Producer, RecordTooLargeError
from connectors.messages import MAX_MESSAGE_BYTES, FlaggedResponse, MessageRejected, Rejection, decode
from daemon.config.intake import KafkaConfig
from daemon.errors import ConfigError
from daemon.runtime.kafka_options import kafka_options
from daemon.tls import trusting

KAFKA_CHUNK = 500
HTTP_TIMEOUT_S = 30.0
RETRY_AFTER_S = 1.0
OnSent = Callable[[int, int], None]
"""Called with the number of processed lines and the total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineProblem:
    """A line that was not accepted. Lines count from 1."""

    line: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """Result of a submission. `outcomes` counts the daemon's answers (HTTP only)."""

    lines: int
    sent: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[LineProblem, ...] = ()
    stopped: str | None = None
    """Reason for an early end, with the next step; None if all lines were processed."""

    @property
    def complete(self) -> bool:
        return self.sent == self.lines and self.stopped is None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    number: int
    raw: bytes
    flagged: FlaggedResponse


def send_kafka(
    lines: Iterable[bytes],
    kafka: KafkaConfig,
    *,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    on_sent: OnSent | None = None,
) -> Submission:
    """Send all lines to the intake topic, keyed by report id. The broker has acknowledged `sent` lines.

    Raises:
        ConfigError: when the variable of the SASL password is not set.
    """
    checked, submission = _check(lines, max_message_bytes)
    if submission.problems:
        return submission
    producer = Producer(kafka_options(kafka))
    try:
        for start in range(0, len(checked), KAFKA_CHUNK):
            chunk = checked[start : start + KAFKA_CHUNK]
            producer.send_and_wait([_outbound(line, kafka.topic) for line in chunk])
            submission = replace(submission, sent=start + len(chunk))
            if on_sent is not None:
                on_sent(submission.sent, len(checked))
    except KafkaUnavailableError as exc:
        return _stop(submission, str(exc))
    except RecordTooLargeError as exc:
        return _stop(
            submission, f"line {checked[submission.sent + exc.index].number} is too large for the topic: {exc}"
        )
    finally:
        producer.close()
    return submission


def send_http(
    lines: Iterable[bytes],
    url: str,
    *,
    token: str | None = None,
    authority: Path | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    on_sent: OnSent | None = None,
) -> Submission:
    """Post all lines to the daemon at `url`. It stored `sent` lines; `problems` has the rejected ones.

    Args:
        authority: The certificate authority of the server, if it is not one that everybody trusts.

    Raises:
        ConfigError: when `url` is invalid, or the authority cannot be used.
    """
    checked, submission = _check(lines, max_message_bytes)
    if submission.problems:
        return submission
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    outcomes: Counter[str] = Counter()
    problems: list[LineProblem] = []
    stopped: str | None = None
    with _client(url, headers, authority) as client:
        for number, line in enumerate(checked, 1):
            try:
                answer = _post(client, line.raw)
                answer.raise_for_status()
                outcomes[answer.json()["outcome"]] += 1
            except httpx.HTTPStatusError as exc:
                if not _is_about_the_line(exc.response):
                    stopped = f"the daemon answered {exc.response.status_code}: {_detail(exc.response)}"
                    break
                problems.append(_refused(line, exc.response))
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as exc:
                stopped = f"{url} does not answer as an erratad: {exc or type(exc).__name__}"
                break
            if on_sent is not None:
                on_sent(number, len(checked))
    submission = replace(submission, sent=outcomes.total(), outcomes=dict(outcomes), problems=tuple(problems))
    return submission if stopped is None else _stop(submission, stopped)


def _post(client: httpx.Client, raw: bytes) -> httpx.Response:
    """Post one line; on HTTP 429 for too many requests, wait for `Retry-After` and try again."""
    while True:
        answer = client.post("/v1/feedback", content=raw)
        if answer.status_code != httpx.codes.TOO_MANY_REQUESTS or _reason(answer) == Rejection.QUOTA:
            return answer
        time.sleep(float(answer.headers.get("Retry-After", RETRY_AFTER_S)))


def _client(url: str, headers: Mapping[str, str], authority: Path | None) -> httpx.Client:
    trust = trusting(authority) if authority else True
    try:
        return httpx.Client(base_url=url.rstrip("/"), headers=dict(headers), timeout=HTTP_TIMEOUT_S, verify=trust)
    except httpx.InvalidURL as exc:
        raise ConfigError(f"{url!r} is not a URL ({exc}); give the daemon's URL, e.g. http://127.0.0.1:8077") from exc


def _check(lines: Iterable[bytes], max_message_bytes: int) -> tuple[Sequence[_Line], Submission]:
    """Decode all lines; blank ones are skipped."""
    checked: list[_Line] = []
    problems: list[LineProblem] = []
    for number, line in enumerate(lines, 1):
        raw = line.strip()
        if not raw:
            continue
        try:
            checked.append(_Line(number=number, raw=raw, flagged=decode(raw, max_bytes=max_message_bytes)))
        except MessageRejected as exc:
            problems.append(LineProblem(line=number, reason=exc.reason, detail=exc.detail))
    return checked, Submission(lines=len(checked) + len(problems), problems=tuple(problems))


def _outbound(line: _Line, topic: str) -> OutboundRecord:
    return OutboundRecord(topic=topic, key=line.flagged.id.encode(), value=line.raw)


def _stop(submission: Submission, why: str) -> Submission:
    sent = f"{submission.sent} of {submission.lines} lines were sent"
    return replace(submission, stopped=f"{sent}, then: {why}. Send the file again: no report is stored twice")


def _is_about_the_line(response: httpx.Response) -> bool:
    return response.status_code in {httpx.codes.CONFLICT, httpx.codes.UNPROCESSABLE_ENTITY} or (
        response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE
    )


def _refused(line: _Line, response: httpx.Response) -> LineProblem:
    reason = {409: "conflict", 413: "oversized"}.get(response.status_code, "refused")
    return LineProblem(line=line.number, reason=reason, detail=_detail(response))


def _reason(response: httpx.Response) -> str | None:
    try:
        return str(response.json()["error"]["reason"])
    except (ValueError, KeyError, TypeError):
        return None


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["detail"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200] or response.reason_phrase
