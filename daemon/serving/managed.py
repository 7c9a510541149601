"""The stage that keeps one vLLM server alive: adopts or starts it, monitors it, restarts it with a bounded backoff."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

import structlog

from connectors.chat import PLAIN, Dialect, EndpointError
from connectors.vllm import VllmServer
from daemon import metrics
from daemon.config.chat import ChatConfig
from daemon.config.serving import ModelConfig, ServingConfig
from daemon.config.training import TrainingConfig
from daemon.errors import ConfigError, ServingError
from daemon.records import utcnow
from daemon.runtime.backoff import Backoff
from daemon.runtime.leader import current_number
from daemon.runtime.lock import try_lock
from daemon.runtime.machine import free_port
from daemon.runtime.stage import Life, Step
from daemon.serving.command import command, fingerprint, installed_vllm, runs_on_cpu
from daemon.serving.process import ServerProcess, ServerRecord, lock_path, record_path, start_server
from daemon.serving.server_log import ServerLog

log = structlog.get_logger(__name__)

STOP_GRACE_S = 20.0
RESTART_LIMIT_S = 60.0
STABLE_AFTER_S = 60.0
"""After being ready for this long, a server's earlier failures no longer count for the backoff."""
UNREADY_LIMIT_S = 60.0
UNANSWERED_LIMIT_S = 180.0
PROBE_INTERVAL_S = 30.0
PROBE_TIMEOUT_S = 30.0
PROBE = ({"role": "user", "content": "Count from one to five."},)
PROBE_TOKENS = 4
EMPTY_LIMIT = 2
PROGRESS_STEP_S = 5
RESTART_SHOWN_S = 1800.0
"""The reason of a restart is shown for this long, because a server that crashes repeatedly is up in between."""


class ServerHealth:
    """Tracks readiness and probes of one server process, and decides when to restart it. Times: monotonic seconds."""

    def __init__(self, process: ServerProcess, *, start_timeout_s: float, now: float) -> None:
        self._started_at = now - process.age_s()
        self._start_deadline = max(self._started_at + start_timeout_s, now + UNREADY_LIMIT_S)
        self._ready_since: float | None = None
        self._ready_at = now
        self._answered_at = now
        self._probe_at = 0.0
        # some models answer the probe with an empty text; that counts as a fault only if the server answered before,
        # or if it was adopted
        self._speaks = process.adopted
        self._empty = 0

    def unready(self, phase: str, now: float) -> tuple[str, bool]:
        """The status sentence of a server that is not ready, and whether to restart it."""
        waited_s = int(now - self._started_at) // PROGRESS_STEP_S * PROGRESS_STEP_S
        if self._ready_since is None:
            if now > self._start_deadline:
                return f"vLLM was not ready after {waited_s} s (last: {phase})", True
            return f"vLLM starting: {phase}, {waited_s} s", False
        if now - self._ready_at > UNREADY_LIMIT_S:
            return f"vLLM's /health failed for {UNREADY_LIMIT_S:.0f} s", True
        return f"vLLM's /health fails; it is restarted if that lasts {UNREADY_LIMIT_S:.0f} s", False

    def ready(self, now: float) -> None:
        if self._ready_since is None:
            self._ready_since = self._answered_at = now
        self._ready_at = now

    def stable(self, now: float) -> bool:
        return self._ready_since is not None and now - self._ready_since > STABLE_AFTER_S

    def probe_due(self, now: float) -> bool:
        return now >= self._probe_at

    def answered(self, text: str, now: float) -> str | None:
        """Record the answer to a probe. Returns the reason for a restart, or None.

        With NaN in an adapter, vLLM 0.32 answers every request with an empty text, status 200 and a good /health.
        """
        self._answered_at, self._probe_at = now, now + PROBE_INTERVAL_S
        self._empty = 0 if text.strip() else self._empty + 1
        self._speaks = self._speaks or bool(text.strip())
        if self._speaks and self._empty >= EMPTY_LIMIT:
            return "vLLM answers with empty texts although its /health is good: its engine is poisoned"
        return None

    def silent(self, error: str, now: float) -> str | None:
        """Record a probe without an answer. Returns the reason for a restart, or None."""
        self._probe_at = now + PROBE_INTERVAL_S
        if now - self._answered_at > UNANSWERED_LIMIT_S:
            return f"vLLM answered nothing for {UNANSWERED_LIMIT_S:.0f} s although its /health is good: {error}"
        return None


class ManagedServer:
    """Supervises the vLLM server of one data directory.

    Args:
        publish: called once with the server's client, which stays the same over all restarts.
        api_key, admin_token: None if not configured; the admin token is then random.

    Raises:
        ConfigError: when the installed vLLM does not support the configuration.
    """

    name = "serving"
    idle_s = 1.0
    always_on: Literal[True] = True

    def __init__(
        self,
        *,
        model: ModelConfig,
        serving: ServingConfig,
        training: TrainingConfig,
        data_dir: Path,
        publish: Callable[[Sequence[VllmServer]], None],
        api_key: str | None = None,
        admin_token: str | None = None,
        chat: ChatConfig | None = None,
        dialect: Dialect = PLAIN,
    ) -> None:
        self._dialect = dialect
        self._installed = installed_vllm()
        self._model_path = model.path
        self._serving = serving
        self._data_dir = data_dir
        self._publish = publish
        self._api_key = api_key
        self._configured_token = admin_token
        self._token = admin_token or secrets.token_urlsafe(32)
        self._port = serving.port
        self._command = partial(
            command, model, serving, training, chat=chat, api_key=api_key, cpu=runs_on_cpu(serving, self._installed)
        )
        self._log = ServerLog(data_dir / "logs" / "vllm.log")
        self._lock: BinaryIO | None = None
        self._process: ServerProcess | None = None
        self._client: VllmServer | None = None
        self._backoff = Backoff(first_s=serving.restart_backoff_s, limit_s=RESTART_LIMIT_S)
        self._failures = 0
        self._failure = ""
        self._not_before = 0.0
        self._restart = ""
        self._restart_shown_until = 0.0
        try:
            self._fingerprint()
        except OSError as exc:
            raise ConfigError(f"model.path: {exc.filename} cannot be read: {exc.strerror}") from exc

    def step(self, _life: Life) -> Step:
        if self._lock is None:
            self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = try_lock(lock_path(self._data_dir))
            if self._lock is None:
                return Step(sentence=f"waiting: another erratad runs the vLLM server of {self._data_dir}")
        try:
            client = self._client or self._take_over()
            if self._process is None:
                return self._begin()
            return self._check(self._process, client)
        except (ServingError, OSError) as exc:
            return self._give_up(f"vLLM cannot be started: {exc}")

    def close(self) -> None:
        """End the server, for an orderly stop of the daemon. Call it after the last step."""
        if self._lock is None:
            return
        if self._client is not None:
            self._monitor.close()
        if self._process is not None:
            self._process.end(grace_s=STOP_GRACE_S)
            self._process = None
        record_path(self._data_dir).unlink(missing_ok=True)
        self._lock.close()
        self._lock = None

    def _take_over(self) -> VllmServer:
        """Adopt the server of an earlier daemon if it matches the configuration, else end it."""
        record = ServerRecord.read(record_path(self._data_dir))
        if record is not None:
            process = ServerProcess(record)
            if process.alive() and record.fingerprint == self._fingerprint():
                self._port = record.port
                self._token = self._configured_token or record.admin_token or self._token
                self._monitor_process(process)
                self._log.adopt(process.age_s())
                log.info("vllm_adopted", pid=record.pid, port=record.port)
            else:
                process.end(grace_s=STOP_GRACE_S)
        self._port = self._port or free_port(self._serving.host)
        url = f"http://{reachable(self._serving.host)}:{self._port}"
        self._client = VllmServer(
            url, api_key=self._api_key, admin_token=self._token, dialect=self._dialect, term=current_number
        )
        self._monitor = VllmServer(url, api_key=self._api_key, admin_token=self._token, timeout_s=PROBE_TIMEOUT_S)
        self._publish([self._client])
        return self._client

    def _fingerprint(self) -> str:
        asked_for = self._command(port=self._serving.port, admin_token=self._configured_token or "")
        return fingerprint(asked_for, model_path=self._model_path, installed=self._installed)

    def _begin(self) -> Step:
        if time.monotonic() < self._not_before:
            return Step(sentence=self._failure)
        self._log.begin()
        process = start_server(
            self._command(port=self._port, admin_token=self._token),
            record_path=record_path(self._data_dir),
            log_path=self._log.path,
            port=self._port,
            admin_token=None if self._configured_token else self._token,
            fingerprint=self._fingerprint(),
        )
        self._monitor_process(process)
        log.info("vllm_started", pid=process.record.pid, port=self._port, log=str(self._log.path))
        return Step(sentence=f"vLLM starting: importing modules, 0 s{self._why_restarted()}")

    def _monitor_process(self, process: ServerProcess) -> None:
        self._process = process
        self._health = ServerHealth(process, start_timeout_s=self._serving.start_timeout_s, now=time.monotonic())

    def _check(self, process: ServerProcess, client: VllmServer) -> Step:
        if not process.alive():
            code = "an unknown code" if process.exit_code is None else f"code {process.exit_code}"
            return self._give_up(f"vLLM exited with {code}: {self._log.failure_reason()}")
        self._log.rotate()
        reason = self._not_ready_reason()
        if reason is not None:
            sentence, hopeless = self._health.unready(reason, time.monotonic())
            return self._give_up(sentence) if hopeless else Step(sentence=f"{sentence}{self._why_restarted()}")
        self._health.ready(time.monotonic())
        if self._health.stable(time.monotonic()):
            self._failures = 0
        problem = self._ask_probe() if self._health.probe_due(time.monotonic()) else None
        if problem is not None:
            return self._give_up(problem)
        adopted = ", adopted" if process.adopted else ""
        who = f"(process {process.record.pid}{adopted})"
        return Step(sentence=f"vLLM serves on {client.url} {who}{self._why_restarted()}")

    def _why_restarted(self) -> str:
        return self._restart if time.monotonic() < self._restart_shown_until else ""

    def _not_ready_reason(self) -> str | None:
        """Why the server is not ready, or None if it is."""
        if self._monitor.ready():
            return None
        try:
            self._monitor.state()
        except EndpointError as exc:
            if not exc.transient:
                return f"something else answers at its address ({exc})"
        return self._log.phase()

    def _ask_probe(self) -> str | None:
        try:
            reply = self._monitor.chat(self._serving.base_name, PROBE, max_tokens=PROBE_TOKENS)
        except EndpointError as exc:
            return self._health.silent(str(exc), time.monotonic())
        return self._health.answered(reply.text, time.monotonic())

    def _give_up(self, reason: str) -> Step:
        """End the server and schedule its restart after a wait that doubles with each failure."""
        process, self._process = self._process, None
        if process is not None:
            try:
                process.end(grace_s=STOP_GRACE_S)
            except ServingError as exc:
                reason = f"{reason}; {exc}"
        self._failures += 1
        wait_s = self._backoff.delay_s(self._failures)
        self._not_before = time.monotonic() + wait_s
        self._restart = f"; restarted at {utcnow():%H:%M:%S} UTC: {reason}"
        self._restart_shown_until = time.monotonic() + RESTART_SHOWN_S
        self._failure = f"{reason}; start {self._failures + 1} follows after {wait_s:g} s (log: {self._log.path})"
        metrics.SERVER_RESTARTS.inc()
        log.warning("vllm_restart", reason=reason, failures=self._failures, wait_s=wait_s)
        return Step(sentence=self._failure)


def reachable(host: str) -> str:
    """The address under which a server that listens on `host` can be called."""
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        return "127.0.0.1" if host == "0.0.0.0" else "[::1]"  # noqa: S104
    return f"[{host}]" if ":" in host else host
