"""Commands that change something: train, promote, reject, rollback, approve, pause, requeue, evidence, erase, ..."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.options import AsJson, ConfigPath, Overrides, Reason, for_each, opened, operator, settings
from daemon.cli.output import print_json, say, warn
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from daemon.records import Intent
    from daemon.store import Store

POLL_INTERVAL_S = 0.3
NO_REASON = "no reason given"
_STAGE_OF = {"train": "schedule", "induce": "induction", "promote": "promotion", "rollback": "promotion"}

Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the daemon has carried out or refused it.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Maximum time to wait, in seconds.")]
StageName = Annotated[str, typer.Argument(help="A stage's name as in `erratad status`, or 'all'.")]


def train(
    *,
    reason: Reason = NO_REASON,
    wait: Wait = True,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """Start a training run now."""
    from daemon.operations.commands import request_training

    with opened(settings(config_path, overrides)) as store:
        intent = request_training(store, actor=operator(), reason=reason)
        _follow(store, intent, wait_s=timeout if wait else None, as_json=as_json)


def induce(
    *,
    reason: Reason = NO_REASON,
    wait: Wait = True,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """Provoke mistakes now (red-team) and file them as reports.

    Needs induction.enabled. `erratad status` shows the progress.
    """
    from daemon.operations.commands import request_induction

    with opened(settings(config_path, overrides)) as store:
        intent = request_induction(store, actor=operator(), reason=reason)
        _follow(store, intent, wait_s=timeout if wait else None, as_json=as_json)


def promote(
    generation: Annotated[int, typer.Argument(min=0, help="The generation to make live.")],
    *,
    reason: Reason = NO_REASON,
    wait: Wait = True,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """Make a generation live.

    It must have been accepted by the gate, or have been live before.
    """
    from daemon.operations.commands import request_promotion

    with opened(settings(config_path, overrides)) as store:
        intent = request_promotion(store, generation, actor=operator(), reason=reason)
        _follow(store, intent, wait_s=timeout if wait else None, as_json=as_json)


def rollback(
    generation: Annotated[int | None, typer.Argument(min=0, help="Default: the previous live generation.")] = None,
    *,
    reason: Reason = NO_REASON,
    wait: Wait = True,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """Go back to an earlier generation.

    The replaced generation does not go live again, unless `erratad approve` lifts that.
    """
    from daemon.operations.commands import request_rollback

    with opened(settings(config_path, overrides)) as store:
        intent = request_rollback(store, generation, actor=operator(), reason=reason)
        _follow(store, intent, wait_s=timeout if wait else None, as_json=as_json)


def approve(
    generation: Annotated[int, typer.Argument(min=0, help="A generation that was rolled back.")],
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why it may go live again; it stands in the audit.")],
    wait: Wait = True,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """Let a rolled-back generation go live again.

    For a rollback that was forced, or whose cause was another one. The generation is watched again.
    """
    from daemon.operations import commands

    with opened(settings(config_path, overrides)) as store:
        intent = commands.approve(store, generation, actor=operator(), reason=reason)
        _follow(store, intent, wait_s=timeout if wait else None, as_json=as_json)


def reject(
    generation: Annotated[int, typer.Argument(min=0, help="A candidate that passed the gate.")],
    *,
    reason: Reason = NO_REASON,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """Reject a candidate, so that it never goes live.

    This also ends its canary or shadow. Its run ends as rejected.
    """
    from daemon.operations.commands import reject_candidate

    with opened(settings(config_path, overrides)) as store:
        reject_candidate(store, generation, actor=operator(), reason=reason)
    say(f"rejected generation {generation}")


def pause(
    stage: StageName = "all",
    *,
    reason: Reason = NO_REASON,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """Pause one stage, or all.

    The running step finishes. No new step starts until `erratad resume`.
    """
    from daemon.operations import commands

    with opened(settings(config_path, overrides)) as store:
        commands.pause(store, stage, actor=operator(), reason=reason)
    say(f"paused {stage}")


def resume(
    stage: StageName = "all",
    *,
    reason: Reason = NO_REASON,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """Resume one stage, or all."""
    from daemon.operations import commands

    with opened(settings(config_path, overrides)) as store:
        lifted = commands.resume(store, stage, actor=operator(), reason=reason)
    say(f"resumed {stage}" if lifted else f"{stage} was not paused")


def requeue(
    report_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Buried, quarantined or duplicate reports.")],
    *,
    reason: Reason = NO_REASON,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """Analyse reports again.

    Revives buried reports and releases quarantined ones.
    """
    with opened(settings(config_path, overrides)) as store:
        for_each(report_ids, lambda one: store.reports.requeue(one, actor=operator(), reason=reason), "requeued")


def evidence(
    report_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Claimed or contradicted reports.")],
    *,
    reason: Reason = NO_REASON,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """Look once more whether the model gave the flagged answers.

    The daemon does so for each report once; docs/trust.md says how.
    """
    with opened(settings(config_path, overrides)) as store:
        for_each(report_ids, lambda one: store.evidence.look_again(one, actor=operator(), reason=reason), "waits:")


def erase(
    report_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Reports to erase.")],
    *,
    reason: Reason = NO_REASON,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """Permanently remove the content of reports.

    From the database, run folders, caches and dead letters. Ids and lineage stay. A signed certificate says what
    remains (`erratad certificate ID`). Adapters trained on them: privacy.after_erasure. Repeat it to complete it.
    """
    from daemon.operations import erasure

    config = settings(config_path, overrides)
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("erasing cannot be undone; without a terminal, confirm it with --yes")
        typer.confirm(f"Permanently erase the content of {len(report_ids)} reports?", abort=True)
    with opened(config) as store:
        for_each(
            report_ids, lambda one: _tell(erasure.erase(store, config, one, actor=operator(), reason=reason)), "erased"
        )


def _tell(certificate: Mapping[str, Any]) -> None:
    for one in certificate["remains"]:
        say(f"remains: {one['what']}, {one['where']}, until {one['until']}")


def certificate(
    report_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="An erased report.")] = None,
    *,
    check: Annotated[Path | None, typer.Option("--check", help="A certificate's file: is it genuine?")] = None,
    key: Annotated[bool, typer.Option("--key", help="Print the public key of this installation.")] = False,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """Print the signed certificate of an erasure, or check one.

    It says what was erased, which adapters were trained on it, what remains and until when.
    """
    from daemon.privacy.certificate import public_key
    from daemon.privacy.keys import Keys

    config = settings(config_path, overrides)
    if check is not None:
        _check(check, public_key(Keys.of(config)))
    elif key:
        say(public_key(Keys.of(config)))
    elif report_id is None:
        raise ConfigError("name an erased report, or give --check FILE or --key")
    else:
        with opened(config) as store:
            print_json(store.erasures.get(report_id).certificate or {})


def original(
    report_id: Annotated[str, typer.Argument(metavar="ID", help="A report that was redacted.")],
    *,
    reason: Reason = NO_REASON,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """Print a report as it was sent, before redaction.

    Needs privacy.keep_original. The reading is in the audit log.
    """
    from daemon.operations.commands import read_original

    config = settings(config_path, overrides)
    with opened(config) as store:
        print_json(read_original(store, config, report_id, actor=operator(), reason=reason))


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


def _follow(store: Store, intent: Intent, *, wait_s: float | None, as_json: bool) -> None:
    """Wait up to `wait_s` (None: do not wait) for the outcome and show it. A failure exits with 1, no daemon with 3."""
    from daemon.operations.status import daemon_runs

    absent = not daemon_runs(store)
    if wait_s is not None and not absent:
        intent = _outcome(store, intent, wait_s)
    _show(intent, as_json=as_json)
    if absent:
        warn("no daemon seems to run; the command is carried out when one starts (`erratad run`)")
    elif wait_s is not None and intent.state == "pending":
        warn(f"not done within {wait_s:g} s; it stays queued. {_stage_sentence(store, intent.kind)}")
    if wait_s is not None and intent.state != "done":
        raise typer.Exit(3 if absent else 1)


def _outcome(store: Store, intent: Intent, wait_s: float) -> Intent:
    deadline = time.monotonic() + wait_s
    while intent.state == "pending" and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL_S)
        intent = store.intents.get(intent.id)
    return intent


def _show(intent: Intent, *, as_json: bool) -> None:
    if as_json:
        print_json(intent)
        return
    target = "" if intent.target_generation is None else f" generation {intent.target_generation}"
    state = "queued" if intent.state == "pending" else intent.state
    say(f"{intent.kind}{target}: {state}{f', {intent.outcome}' if intent.outcome else ''}")


def _stage_sentence(store: Store, kind: str) -> str:
    beats = [beat for beat in store.control.heartbeats() if beat.name == _STAGE_OF[kind]]
    return f"Stage {beats[-1].name}: {beats[-1].sentence}" if beats else f"Stage {_STAGE_OF[kind]} does not run."
