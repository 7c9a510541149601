"""Commands that change something: train, promote, reject, rollback, approve, pause, requeue, evidence, erase, ..."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from daemon.cli import completion
from daemon.cli.backend import Backend, Document, Request
from daemon.cli.connection import on_backend
from daemon.cli.options import MAX_NUMBER, AsJson, Reason, ReasonNeeded, Yes, ask, for_each, reason_given
from daemon.cli.output import print_json, say, warn
from daemon.errors import ConfigError
from daemon.operations.stages import PAUSABLE

POLL_INTERVAL_S = 0.3
NO_REASON = "no reason given"
ALL = "all"
MANY = 10
"""Above this number of reports, a command that could be undone asks, too."""
_STAGE_OF = {"train": "schedule", "induce": "induction", "promote": "promotion", "rollback": "promotion"}

Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the daemon has carried out or refused it.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Maximum time to wait, in seconds.")]
StageName = Annotated[
    str, typer.Argument(help="A stage's name as in `erratad status`, or 'all'.", autocompletion=completion.stages)
]


def _generation(text: str) -> Any:
    return typer.Argument(min=0, max=MAX_NUMBER, help=text, autocompletion=completion.generations)


def _report(metavar: str, text: str) -> Any:
    return typer.Argument(metavar=metavar, help=text, autocompletion=completion.reports)


@on_backend
def train(
    backend: Backend,
    *,
    reason: Reason = NO_REASON,
    wait: Wait = True,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """Start a training run now."""
    intent = backend.request("train", reason=reason)
    _follow(backend, intent, wait_s=timeout if wait else None, as_json=as_json)


@on_backend
def induce(
    backend: Backend,
    *,
    reason: Reason = NO_REASON,
    wait: Wait = True,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """Provoke mistakes now (red-team) and file them as reports.

    Needs induction.enabled. `erratad status` shows the progress.
    """
    intent = backend.request("induce", reason=reason)
    _follow(backend, intent, wait_s=timeout if wait else None, as_json=as_json)


@on_backend
def promote(
    backend: Backend,
    generation: Annotated[int, _generation("The generation to make live.")],
    *,
    reason: ReasonNeeded = None,
    yes: Yes = False,
    wait: Wait = True,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """Make a generation live.

    It must have been accepted by the gate, or have been live before.
    """
    intent = _swap(backend, "promote", generation, reason=reason, yes=yes)
    _follow(backend, intent, wait_s=timeout if wait else None, as_json=as_json)


@on_backend
def rollback(
    backend: Backend,
    generation: Annotated[
        int | None,
        _generation("Default: the previous live generation."),
    ] = None,
    *,
    reason: ReasonNeeded = None,
    yes: Yes = False,
    wait: Wait = True,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """Go back to an earlier generation.

    The replaced generation does not go live again, unless `erratad approve` lifts that.
    """
    intent = _swap(backend, "rollback", generation, reason=reason, yes=yes)
    _follow(backend, intent, wait_s=timeout if wait else None, as_json=as_json)


@on_backend
def approve(
    backend: Backend,
    generation: Annotated[int, _generation("A generation that was rolled back.")],
    *,
    reason: ReasonNeeded = None,
    yes: Yes = False,
    wait: Wait = True,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """Let a rolled-back generation go live again.

    For a rollback that was forced, or whose cause was another one. The generation is watched again.
    """
    intent = _swap(backend, "approve", generation, reason=reason, yes=yes)
    _follow(backend, intent, wait_s=timeout if wait else None, as_json=as_json)


@on_backend
def reject(
    backend: Backend,
    generation: Annotated[int, _generation("A candidate that passed the gate.")],
    *,
    reason: ReasonNeeded = None,
    yes: Yes = False,
) -> None:
    """Reject a candidate, so that it never goes live.

    This also ends its canary or shadow. Its run ends as rejected.
    """
    given = reason_given(reason)
    ask(lambda: f"Reject generation {generation}{backend.where}, so that it never goes live?", yes=yes)
    backend.reject(generation, reason=given)
    say(f"rejected generation {generation}")


@on_backend
def pause(
    backend: Backend,
    stage: StageName = ALL,
    *,
    reason: ReasonNeeded = None,
    yes: Yes = False,
) -> None:
    """Pause one stage, or all.

    The running step finishes. No new step starts until `erratad resume`. It asks before it pauses all.
    """
    if stage == ALL:
        given = reason_given(reason)
        ask(lambda: f"Pause all stages{backend.where} ({', '.join(PAUSABLE)})?", yes=yes)
    else:
        given = reason or NO_REASON
    backend.pause(stage, reason=given)
    say(f"paused {stage}")


@on_backend
def resume(
    backend: Backend,
    stage: StageName = ALL,
    *,
    reason: Reason = NO_REASON,
) -> None:
    """Resume one stage, or all."""
    say(f"resumed {stage}" if backend.resume(stage, reason=reason) else f"{stage} was not paused")


@on_backend
def requeue(
    backend: Backend,
    report_ids: Annotated[
        list[str],
        _report("ID...", "Buried, quarantined or duplicate reports."),
    ],
    *,
    reason: Reason = NO_REASON,
    yes: Yes = False,
) -> None:
    """Analyse reports again.

    Revives buried reports and releases quarantined ones. It asks for more than 10.
    """
    if len(report_ids) > MANY:
        ask(lambda: f"Analyse {len(report_ids)} reports{backend.where} again?", yes=yes)
    for_each(report_ids, lambda one: backend.act_on(one, "requeue", reason=reason), "requeued")


@on_backend
def evidence(
    backend: Backend,
    report_ids: Annotated[
        list[str],
        _report("ID...", "Claimed or contradicted reports."),
    ],
    *,
    reason: Reason = NO_REASON,
) -> None:
    """Look once more whether the model gave the flagged answers.

    The daemon does so for each report once; docs/trust.md says how.
    """
    for_each(report_ids, lambda one: backend.act_on(one, "evidence", reason=reason), "waits:")


@on_backend
def erase(
    backend: Backend,
    report_ids: Annotated[list[str], _report("ID...", "Reports to erase.")],
    *,
    reason: ReasonNeeded = None,
    yes: Yes = False,
) -> None:
    """Permanently remove the content of reports.

    From the database, run folders, caches and dead letters. Ids and lineage stay. A signed certificate says what
    remains (`erratad certificate ID`). Adapters trained on them: privacy.after_erasure. Repeat it to complete it.
    """
    given = reason_given(reason)
    ask(lambda: f"Permanently erase the content of {len(report_ids)} reports{backend.where}?", yes=yes)
    for_each(report_ids, lambda one: _tell(backend.erase(one, reason=given)), "erased")


def _tell(certificate: Document) -> None:
    for one in certificate["remains"]:
        say(f"remains: {one['what']}, {one['where']}, until {one['until']}")


@on_backend
def certificate(
    backend: Backend,
    report_id: Annotated[str | None, _report("[ID]", "An erased report.")] = None,
    *,
    check: Annotated[Path | None, typer.Option("--check", help="A certificate's file: is it genuine?")] = None,
    key: Annotated[bool, typer.Option("--key", help="Print the public key of this installation.")] = False,
) -> None:
    """Print the signed certificate of an erasure, or check one.

    It says what was erased, which adapters were trained on it, what remains and until when.
    """
    if check is not None:
        _check(check, backend.certificate_key())
    elif key:
        say(backend.certificate_key())
    elif report_id is None:
        raise ConfigError("name an erased report, or give --check FILE or --key")
    else:
        print_json(backend.certificate(report_id))


@on_backend
def original(
    backend: Backend,
    report_id: Annotated[str, _report("ID", "A report that was redacted.")],
    *,
    reason: Reason = NO_REASON,
) -> None:
    """Print a report as it was sent, before redaction.

    Needs privacy.keep_original. The reading is in the audit log.
    """
    print_json(backend.original(report_id, reason=reason))


def _check(path: Path, key: str) -> None:
    from daemon.privacy.certificate import is_genuine

    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{path} is no certificate: {exc}") from exc
    if not isinstance(found, dict) or not is_genuine(found, key):
        warn(f"{path} was not signed by this installation, or was changed")
        raise typer.Exit(1)
    say(f"genuine: report {found.get('report_id')}, erased at {found.get('erased_at')}")


def _swap(backend: Backend, kind: Request, generation: int | None, *, reason: str | None, yes: bool) -> Document:
    """Request another live generation, after a question that names both."""
    given = reason_given(reason)
    ask(lambda: _swap_question(backend, generation), yes=yes)
    return backend.request(kind, generation=generation, reason=given)


def _swap_question(backend: Backend, generation: int | None) -> str:
    view = backend.status()
    if generation is None:
        target = "the previous generation" if view["previous"] is None else view["previous"]["name"]
    else:
        target = f"generation {generation}"
    return f"Replace {view['live']['name']}, which is live, by {target} on every server{backend.where}?"


def _follow(backend: Backend, intent: Document, *, wait_s: float | None, as_json: bool) -> None:
    """Wait up to `wait_s` (None: do not wait) for the outcome and show it. A failure exits with 1, no daemon with 3."""
    absent = not backend.status()["daemon_runs"]
    if wait_s is not None and not absent:
        intent = _outcome(backend, intent, wait_s)
    _show(intent, as_json=as_json)
    if absent:
        warn("no daemon seems to run; the command is carried out when one starts (`erratad run`)")
    elif wait_s is not None and intent["state"] == "pending":
        warn(f"not done within {wait_s:g} s; it stays queued. {_stage_sentence(backend, intent['kind'])}")
    if wait_s is not None and intent["state"] != "done":
        raise typer.Exit(3 if absent else 1)


def _outcome(backend: Backend, intent: Document, wait_s: float) -> Document:
    deadline = time.monotonic() + wait_s
    while intent["state"] == "pending" and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL_S)
        intent = backend.intent(intent["id"])
    return intent


def _show(intent: Document, *, as_json: bool) -> None:
    if as_json:
        print_json(intent)
        return
    generation, outcome = intent["target_generation"], intent["outcome"]
    target = "" if generation is None else f" generation {generation}"
    state = "queued" if intent["state"] == "pending" else intent["state"]
    say(f"{intent['kind']}{target}: {state}{f', {outcome}' if outcome else ''}")


def _stage_sentence(backend: Backend, kind: str) -> str:
    beats = [stage for stage in backend.status()["stages"] if stage["name"] == _STAGE_OF[kind]]
    return f"Stage {beats[-1]['name']}: {beats[-1]['sentence']}" if beats else f"Stage {_STAGE_OF[kind]} does not run."
