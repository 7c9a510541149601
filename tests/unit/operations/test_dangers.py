"""What check-config and the daemon's start say about dangerous settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daemon.config import Config
from daemon.operations.dangers import dangers
from daemon.operations.preflight import check

STRONG = "9f2KxPq7Lm3vRt8WzB5n"
KAFKA = {"bootstrap_servers": ["localhost:9092"]}
PROXY = {"roles": {"everyone": "reviewer"}}


def found(config: Config) -> list[str]:
    return list(dangers(config))


def keys(config: Config) -> list[str]:
    return [one.partition(": ")[0] for one in dangers(config)]


def token(**values: Any) -> dict[str, Any]:
    return {"tokens": [{"name": "ci", "role": "operator", "token_env": "TEST_TOKEN"}], **values}


def proxy(*addresses: str) -> dict[str, Any]:
    return {"proxy": {"addresses": list(addresses), **PROXY}}


def attached(*urls: str) -> dict[str, Any]:
    return {"mode": "attached", "urls": list(urls), "admin_token_env": "TEST_TOKEN"}


def endpoint(url: str) -> dict[str, Any]:
    return {"url": url, "model": "m"}


def webhook(url: str) -> dict[str, Any]:
    return {"url": url, "secret_env": "TEST_TOKEN"}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_TOKEN", STRONG)
    monkeypatch.delenv("PGSSLMODE", raising=False)


def test_the_defaults_are_not_dangerous(make_config: Callable[..., Config]) -> None:
    assert found(make_config()) == []


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"http": token(host="0.0.0.0")}, "http.host"),
        ({"http": token(host="::")}, "http.host"),
        ({"http": {"allowed_hosts": ["erratad.example"]}}, "http.allowed_hosts"),
        ({"http": proxy("0.0.0.0/0")}, "http.proxy.addresses.0"),
        ({"http": proxy("10.0.0.7", "::/0")}, "http.proxy.addresses.1"),
        ({"http": proxy("128.0.0.0/1")}, "http.proxy.addresses.0"),
        ({"http": proxy("2000::/3")}, "http.proxy.addresses.0"),
        ({"http": proxy("::ffff:0:0/96")}, "http.proxy.addresses.0"),
        ({"serving": {"host": "0.0.0.0"}}, "serving.host"),
        ({"serving": {"open_routes": ["/metrics", "/collective_rpc"]}}, "serving.open_routes"),
        ({"serving": {"open_routes": ["/{any}"]}}, "serving.open_routes"),
        ({"serving": {"host": "::"}}, "serving.host"),
        ({"intake": {"kafka": {"bootstrap_servers": ["localhost:1", "kafka:9092"]}}}, "intake.kafka.security_protocol"),
        ({"store": {"url": "postgresql://erratad@db:5432/erratad"}}, "store.url"),
        ({"store": {"url": "postgresql://erratad@db/erratad?sslmode=prefer"}}, "store.url"),
        ({"store": {"url": "postgresql+psycopg://erratad@/erratad?host=db"}}, "store.url"),
        ({"webhook": webhook("http://hooks.example.com/x")}, "webhook.url"),
        ({"webhook": webhook("http://169.254.169.254/latest")}, "webhook.url"),
        ({"webhook": webhook("https://[fe80::1]/x")}, "webhook.url"),
        ({"webhook": webhook("http://2852039166/x")}, "webhook.url"),
        ({"reflection": {"endpoint": endpoint("http://analyst:9000")}}, "reflection.endpoint.url"),
        ({"evaluation": {"judge": endpoint("http://169.254.1.1")}}, "evaluation.judge.url"),
        ({"serving": attached("http://169.254.169.254")}, "serving.urls.0"),
        ({"http": {"max_stall_s": 5}}, "http.max_stall_s"),
        ({"schedule": {"check_interval_s": 300}}, "http.max_stall_s"),
        ({"rollout": {"watch": {"interval_s": 3600}}}, "http.max_stall_s"),
    ],
)
def test_a_dangerous_setting_is_named(sections: dict[str, Any], key: str, make_config: Callable[..., Config]) -> None:
    assert keys(make_config(**sections)) == [key]


@pytest.mark.parametrize(
    "sections",
    [
        {"http": token(host="0.0.0.0", **proxy("10.0.0.7"))},
        {"http": proxy("10.0.0.0/8", "fd00::/64")},
        {"http": token(allowed_hosts=["erratad.example"])},
        {"serving": {"host": "0.0.0.0", "api_key_env": "TEST_TOKEN"}},
        {"serving": {"open_routes": ["/metrics", "/v1/embeddings", "/cohere/v2/chat"]}},
        {"serving": {"host": "0.0.0.0", "extra_args": ["--api-key", "x"]}},
        {"serving": {"host": "0.0.0.0", "environment": {"VLLM_API_KEY": "x"}}},
        {"intake": {"kafka": KAFKA}},
        {"intake": {"kafka": {"bootstrap_servers": ["kafka:9092"], "security_protocol": "SSL"}}},
        {"store": {"url": "postgresql://erratad@localhost:5432/erratad"}},
        {"store": {"url": "postgresql://erratad@/erratad?host=/run/postgresql"}},
        {"store": {"url": "postgresql://erratad@db/erratad?sslmode=verify-full"}},
        {"webhook": webhook("http://127.0.0.1:9000/x")},
        {"webhook": webhook("https://hooks.example.com/x")},
        {"reflection": {"endpoint": endpoint("https://analyst:9000")}},
        {"serving": attached("http://vllm-0:8000")},
        {"http": {"max_stall_s": 450}, "schedule": {"check_interval_s": 300}},
    ],
)
def test_its_better_value_is_not(sections: dict[str, Any], make_config: Callable[..., Config]) -> None:
    assert keys(make_config(**sections)) == []


def test_the_environment_can_ask_postgresql_for_tls(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert found(make_config(store={"url": "postgresql://erratad@db/erratad"})) == []


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("hunter2", "fewer than 16 characters"),
        ("changeme-changeme", "easy to guess"),
        ("Admin-Token-12345678", "easy to guess"),
        ("my-secret-password", "easy to guess"),
        ("1234567890123456", "easy to guess"),
        ("aaaaaaaaaaaaaaaaaaaa", "easy to guess"),
        ("abababababababababab", "easy to guess"),
    ],
)
def test_a_weak_secret_is_named_and_not_shown(
    value: str, said: str, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TEST_WEAK", value)
    file = tmp_path / "token"
    file.write_text(f"{value}\n")
    file.chmod(0o600)
    named: list[tuple[dict[str, Any], str]] = [
        ({"http": {"token_env": "TEST_WEAK"}}, "http.token_env"),
        ({"http": token(session_key_env="TEST_WEAK")}, "http.session_key_env"),
        ({"http": {"tokens": [{"name": "x", "role": "admin", "token_file": file}]}}, "http.tokens.0.token_file"),
        ({"serving": {"api_key_env": "TEST_WEAK"}}, "serving.api_key_env"),
        ({"serving": {**attached("http://vllm:1"), "admin_token_env": "TEST_WEAK"}}, "serving.admin_token_env"),
        ({"webhook": {**webhook("https://x.example"), "secret_env": "TEST_WEAK"}}, "webhook.secret_env"),
    ]
    for sections, key in named:
        [danger] = found(make_config(**sections))
        assert danger.startswith(f"{key}: ")
        assert said in danger
        assert value not in danger


def test_a_key_of_clients_must_not_be_the_admin_token(make_config: Callable[..., Config]) -> None:
    serving = {**attached("http://vllm:8000"), "api_key_env": "TEST_TOKEN"}
    [danger] = found(make_config(serving=serving))
    assert "a holder of one has the rights of both" in danger
    assert danger.startswith("serving.admin_token_env: it is the same secret as serving.api_key_env")
    assert STRONG not in danger


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("min_fix_gain", 0), ("max_p_value", 0.5), ("max_holdout_drop", 1), ("max_negative_flip_rate", 0.5)),
        *(("max_retention_drop", 1), ("max_bits_per_token_rise", 10), ("max_over_refusal_rise", 0.9)),
        *(
            ("max_attack_loss", 1),
            ("max_under_attack_loss", 1),
            ("min_changed_share", 0),
            ("min_live_golden_share", 0),
            ("max_empty_share", 1),
        ),
        *(("max_cut_share", 1), ("min_drift_items", 0), ("min_measured_share", 0)),
    ],
)
def test_a_limit_of_the_gate_that_refuses_nothing_is_named_with_its_default(
    key: str, value: float, make_config: Callable[..., Config]
) -> None:
    [danger] = found(make_config(gate={key: value}))
    assert danger.startswith(f"gate.{key}: with {value:g} this criterion lets nearly every candidate pass; write e.g. ")


def test_a_gate_that_asks_for_no_improvement_is_named(make_config: Callable[..., Config]) -> None:
    named = keys(make_config(gate={"min_fix_gain": 0, "max_p_value": 1}))
    assert named == ["gate.min_fix_gain", "gate.max_p_value", "gate"]


def test_what_others_can_read_is_named(make_config: Callable[..., Config], tmp_path: Path) -> None:
    data, file, key, database = (tmp_path / name for name in ("data", "token", "key.pem", "x.sqlite3"))
    data.mkdir()
    data.chmod(0o750)
    for one in (file, key, database):
        one.write_text(STRONG)
        one.chmod(0o604)
    config = make_config(
        data_dir=data,
        http={"tokens": [{"name": "x", "role": "admin", "token_file": file}]},
        intake={"kafka": {**KAFKA, "ssl_keyfile": key}},
        store={"url": f"sqlite:///{database}"},
    )
    assert keys(config) == ["data_dir", "http.tokens.0.token_file", "intake.kafka.ssl_keyfile", "store.url"]
    data.chmod(0o700)
    for one in (file, key, database):
        one.chmod(0o600)
    assert keys(config) == []


def test_check_config_notes_dangers(make_config: Callable[..., Config]) -> None:
    config = make_config(model={"path": "/nonexistent"}, gate={"max_attack_loss": 1})
    assert any(note.startswith("gate.max_attack_loss") for note in check(config).notes)
