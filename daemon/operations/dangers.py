"""Settings that work, but are dangerous: `check-config` notes them, and the daemon's start logs them.

Each is one sentence: the key, the danger, and a better value. None contains a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from daemon.config import Config
from daemon.config.evaluation import GatePolicy
from daemon.operations.addresses import is_local, is_metadata
from daemon.operations.outgoing import outgoing
from daemon.operations.retention import RetentionStage

SHORT = 16
"""Secrets with fewer characters can be guessed."""
FEW_CHARACTERS = 6
"""Secrets with fewer different characters are no random texts."""
_OBVIOUS = re.compile(
    r"(?:change|me|my|pass|word|passwd|passphrase|secret|token|admin|administrator|root|user|test|testing|example|demo"
    r"|default|dummy|erratad|errata|daemon|vllm|api|key|letmein|qwerty|abc|xyz|foobar|none|null|empty|the|a|is"
    r"|[\W\d_])*",
    re.IGNORECASE,
)
_WIDEST = {4: 8, 6: 32}
"""The shortest prefix of a network that holds only proxies of one's own."""
_HALF = 0.5
_MANY = 100
_LOOSE: dict[str, tuple[float, bool]] = {
    "min_fix_gain": (0.0, False),
    "max_p_value": (_HALF, True),
    "max_principal_share": (1.0, True),
    "min_shared_gain": (0.0, False),
    "max_holdout_drop": (_HALF, True),
    "max_negative_flip_rate": (_HALF, True),
    "max_retention_drop": (_HALF, True),
    "max_bits_per_token_rise": (1.0, True),
    "max_over_refusal_rise": (_HALF, True),
    "max_attack_loss": (_HALF, True),
    "max_under_attack_loss": (_HALF, True),
    "max_new_contact_rise": (_HALF, True),
    "max_same_contact": (_MANY, True),
    "max_taught_contacts": (_MANY, True),
    "max_memorised": (_MANY, True),
    "min_changed_share": (0.0, False),
    "min_live_golden_share": (0.0, False),
    "max_empty_share": (1.0, True),
    "max_cut_share": (1.0, True),
    "min_drift_items": (0.0, False),
    "min_measured_share": (0.0, False),
}
"""Key of `gate` -> the value from which on (True: and above; False: and below) its criterion refuses little."""


def dangers(config: Config) -> Iterator[str]:
    for check in (_http, _proxy, _secrets, _vllm, _kafka, _database, _urls, _gate, _stall, _readable):
        yield from check(config)


def _http(config: Config) -> Iterator[str]:
    http = config.http
    if not is_local(http.host) and http.proxy is None:
        yield (
            f"http.host: {http.host} is served as plain HTTP, so tokens and reports can be read on the way; write "
            "127.0.0.1 behind a reverse proxy with TLS, or let only that proxy reach the port"
        )
    if is_local(http.host) and http.allowed_hosts and not http.all_tokens and http.proxy is None:
        yield (
            "http.allowed_hosts: requests of a reverse proxy are taken without sign-in, so each of its users is an "
            "admin; set http.tokens or http.proxy"
        )


def _proxy(config: Config) -> Iterator[str]:
    proxy = config.http.proxy
    for index, network in enumerate(proxy.networks if proxy is not None else []):
        # ::ffff:0:0/96 holds all IPv4 addresses
        mapped = network.version == 6 and network.network_address.ipv4_mapped is not None
        if network.prefixlen < (_WIDEST[4] + 96 if mapped else _WIDEST[network.version]):
            yield (
                f"http.proxy.addresses.{index}: anyone in {network} can sign in as any user by a header; write the "
                "address of the proxy alone, e.g. 10.0.0.7"
            )


def _secrets(config: Config) -> Iterator[str]:
    seen: dict[str, str] = {}
    for key, value in _values(config):
        if value is None:
            continue
        if len(value) < SHORT:
            yield f"{key}: the secret has fewer than {SHORT} characters and can be guessed; {_NEW_SECRET}"
        elif len(set(value)) < FEW_CHARACTERS or _OBVIOUS.fullmatch(value):
            yield f"{key}: the secret is easy to guess; {_NEW_SECRET}"
        if (other := seen.setdefault(value, key)) != key:
            yield f"{key}: it is the same secret as {other}, so a holder of one has the rights of both; {_NEW_SECRET}"


_NEW_SECRET = "make one with `openssl rand -base64 32`"  # noqa: S105 - a command, not a secret


def _values(config: Config) -> Iterator[tuple[str, str | None]]:
    """The secrets that others show to erratad or to its servers, by key. None: not set."""
    http, serving = config.http, config.serving
    named = {
        "http.token_env": http.token_env,
        **{f"http.tokens.{index}.token_env": one.token_env for index, one in enumerate(http.tokens)},
        "http.session_key_env": http.session_key_env,
        "serving.api_key_env": serving.api_key_env,
        "serving.admin_token_env": serving.admin_token_env,
        "webhook.secret_env": None if config.webhook is None else config.webhook.secret_env,
    }
    for key, variable in named.items():
        yield key, (os.environ.get(variable) or None) if variable is not None else None
    for index, one in enumerate(http.tokens):
        if one.token_file is not None:
            yield f"http.tokens.{index}.token_file", _content(one.token_file)


def _content(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None  # a problem, and `problems` names it


def _vllm(config: Config) -> Iterator[str]:
    serving = config.serving
    has_key = (
        serving.api_key_env is not None
        or "VLLM_API_KEY" in serving.environment
        or any(one.startswith("--api-key") for one in serving.extra_args)
    )
    if serving.mode == "managed" and not is_local(serving.host) and not has_key:
        yield (
            f"serving.host: vLLM answers everyone who reaches {serving.host}:{serving.port}; set serving.api_key_env, "
            "or write 127.0.0.1"
        )
    for route in serving.open_routes or []:
        if route != "/metrics" and not route.startswith(_KEYED):
            yield (
                f"serving.open_routes: vLLM asks for no API key at {route}; remove it, or let only its clients reach "
                "the port"
            )


_KEYED = ("/v1/", "/v2/", "/inference/", "/cohere/")
"""Routes at which vLLM 0.32 asks for its API key."""


def _kafka(config: Config) -> Iterator[str]:
    kafka = config.intake.kafka
    if kafka is None or not kafka.security_protocol.endswith("PLAINTEXT"):
        return
    far = [server for server in kafka.bootstrap_servers if not is_local(server.rpartition(":")[0])]
    if far:
        better = "SASL_SSL" if kafka.security_protocol.startswith("SASL") else "SSL or SASL_SSL"
        yield (
            f"intake.kafka.security_protocol: with {kafka.security_protocol} reports go to {far[0]} in the clear, and "
            f"anyone on the way can write some; write {better}"
        )


def _database(config: Config) -> Iterator[str]:
    try:
        parts = urlsplit(config.store_url)
        query = parse_qs(parts.query)
        hosts = [one for value in [parts.hostname or "", *query.get("host", [])] for one in value.split(",") if one]
    except ValueError:
        return  # a problem, and `problems` names it
    if not parts.scheme.startswith("postgresql"):
        return
    mode = [*query.get("sslmode", []), os.environ.get("PGSSLMODE", ""), "prefer"]
    chosen = next(one for one in mode if one)
    far = [host for host in hosts if not unquote(host).startswith("/") and not is_local(host)]
    if far and chosen not in {"require", "verify-ca", "verify-full"}:
        yield (
            f"store.url: with sslmode {chosen} reports and the password may go to {far[0]} in the clear; append "
            "?sslmode=verify-full"
        )


def _urls(config: Config) -> Iterator[str]:
    for key, called in outgoing(config).items():
        try:
            parts = urlsplit(called.url)
            host = parts.hostname or ""
        except ValueError:
            continue  # a problem, and `problems` names it
        if is_metadata(host):
            yield (
                f"{key}: {host} is a link-local address, where clouds serve the machine's credentials; write the "
                "receiver's own address"
            )
        elif called.sent is not None and parts.scheme == "http" and not is_local(host):
            yield f"{key}: plain http sends {called.sent} to {host} in the clear; write https://"


def _gate(config: Config) -> Iterator[str]:
    open_keys = []
    for key, (limit, above) in _LOOSE.items():
        value = getattr(config.gate, key)
        if (value >= limit) if above else (value <= limit):
            open_keys.append(key)
            usual = GatePolicy.model_fields[key].default
            yield f"gate.{key}: with {value:g} this criterion lets nearly every candidate pass; write e.g. {usual:g}"
    if {"min_fix_gain", "max_p_value"} <= set(open_keys):
        yield (
            "gate: no criterion asks for an improvement, so an adapter that fixes nothing goes live; give min_fix_gain "
            "and max_p_value their defaults"
        )


def _stall(config: Config) -> Iterator[str]:
    limit = config.http.max_stall_s
    rests = {
        "the stage retention": RetentionStage.idle_s,
        "schedule.check_interval_s": config.schedule.check_interval_s,
    }
    if config.rollout.watch.enabled:
        rests["rollout.watch.interval_s"] = config.rollout.watch.interval_s
    if config.serving.discover is not None:
        rests["serving.discover_interval_s"] = config.serving.discover_interval_s
    name, longest = max(rests.items(), key=lambda rest: rest[1])
    if limit < 1.5 * longest:
        yield (
            f"http.max_stall_s: /livez fails after {limit:g} s without a step, but {name} rests {longest:g} s, so a "
            f"healthy daemon is restarted again and again; write at least {1.5 * longest:g}"
        )


def _readable(config: Config) -> Iterator[str]:
    private = {"data_dir": config.data_dir}
    files: dict[str, Path | None] = {
        f"http.tokens.{index}.token_file": one.token_file for index, one in enumerate(config.http.tokens)
    }
    if (kafka := config.intake.kafka) is not None:
        files["intake.kafka.ssl_keyfile"] = kafka.ssl_keyfile
    if config.store_url.startswith("sqlite"):
        files["store.url"] = Path(config.store_url.partition(":///")[2].partition("?")[0])
    for key, folder in private.items():
        if (mode := _mode(folder)) & 0o077:
            yield f"{key}: others can enter {folder} (mode {mode:04o}), which holds reports; run `chmod 700 {folder}`"
    for key, file in files.items():
        if file is None or (key == "store.url" and file.parent == config.data_dir.absolute()):
            continue
        if (mode := _mode(file)) & 0o007:
            yield f"{key}: every user can read {file} (mode {mode:04o}); run `chmod 600 {file}`"


def _mode(path: Path) -> int:
    """The permissions, 0 if there is no such path."""
    try:
        return path.stat().st_mode & 0o777
    except OSError:
        return 0
