"""Requests and adapters that the plugin refuses, and its probe."""

from __future__ import annotations

import asyncio
import json
import sys
from argparse import Namespace
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from connectors.vllm_plugin.errors import RequestRefused
from connectors.vllm_plugin.plugin import AliasPlugin, VllmEngine, check_folder

NAN, FINE = float("nan"), -0.5


class Client:
    """vLLM's engine: says `text` with `logprob`, of each adapter or of the base model (None). `asked`: the requests."""

    def __init__(self) -> None:
        self.says: dict[str | None, tuple[str, float]] = {None: (" art", -1.0)}
        self.asked: list[SimpleNamespace] = []

    async def generate(self, _prompt: Any, params: Any, _id: str, *, lora_request: Any) -> AsyncIterator[Any]:
        self.asked.append(params)
        text, logprob = self.says[lora_request]
        token = {1: SimpleNamespace(logprob=logprob)}
        answer = SimpleNamespace(text=text, token_ids=[1], logprobs=[token])
        yield SimpleNamespace(prompt_token_ids=[1, 1, 1], prompt_logprobs=[None, token, token], outputs=[answer])


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(
        "connectors.vllm_plugin.plugin.REGISTRY", CollectorRegistry()
    )  # a server process has one plugin
    for name, value in {"ALIAS": "aligned", "BASE_NAME": "base", "GUIDANCE": "", "ADMIN_TOKEN": "secret"}.items():
        monkeypatch.setenv(f"ERRATAD_{name}", value)
    vllm = SimpleNamespace(SamplingParams=SimpleNamespace, RequestOutputKind=SimpleNamespace(FINAL_ONLY=2))
    for name in ("vllm", "vllm.sampling_params"):  # the real one takes 20 s to import
        monkeypatch.setitem(sys.modules, name, vllm)
    return monkeypatch


def _start(names: list[str], **args: Any) -> Any:
    plugin, app = AliasPlugin(), FastAPI()
    plugin.attach_router(app)
    models = SimpleNamespace(
        base_model_paths=[SimpleNamespace(name=name) for name in names], model_name=lambda _lora=None: names[0]
    )
    app.state.openai_serving_models = models
    asyncio.run(plugin.init_state(Client(), app.state, Namespace(**{"enable_lora": True, **args})))
    return app.state.erratad


def test_a_server_started_as_documented_is_taken(environment: pytest.MonkeyPatch) -> None:
    assert _start(["base"]).table.live is None


def test_a_server_without_admin_token_does_not_start(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("ERRATAD_ADMIN_TOKEN")
    with pytest.raises(ValueError, match="ERRATAD_ADMIN_TOKEN"):
        _start(["base"])


@pytest.mark.parametrize("name", ["VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_SKIP_MODEL_NAME_VALIDATION"])
def test_settings_that_would_let_a_request_miss_its_adapter_stop_the_start(
    environment: pytest.MonkeyPatch, name: str
) -> None:
    environment.setenv(name, "1")
    with pytest.raises(ValueError, match=name):
        _start(["base"])


@pytest.mark.parametrize(
    ("names", "args", "expected"),
    [
        (["other"], {}, "--served-model-name"),
        (["base", "aligned"], {}, "--served-model-name"),
        (["base"], {"api_server_count": 2}, "--api-server-count"),
        (["base"], {"enable_lora": False}, "--enable-lora"),
        (["base"], {"api_key": ["another", "secret"]}, "the API key is the admin token"),
    ],
)
def test_a_command_line_that_breaks_the_alias_stops_the_start(
    environment: pytest.MonkeyPatch, names: list[str], args: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        _start(names, **args)


@pytest.mark.parametrize("raw_names", ["open", "closed"])
def test_the_list_of_models_shows_raw_names_where_they_are_open_and_to_the_daemon(
    environment: pytest.MonkeyPatch, raw_names: str
) -> None:
    environment.setenv("ERRATAD_RAW_NAMES", raw_names)
    plugin, app = AliasPlugin(), FastAPI()
    plugin.attach_router(app)
    listed = {"object": "list", "data": [{"id": "base"}, {"id": "aligned-g000001"}]}

    async def stock() -> Any:
        return SimpleNamespace(model_dump=lambda: json.loads(json.dumps(listed)))

    models = SimpleNamespace(base_model_paths=[SimpleNamespace(name="base")], model_name=None)
    models.show_available_models = stock
    app.state.openai_serving_models = models
    asyncio.run(plugin.init_state(Client(), app.state, Namespace(enable_lora=True)))
    http = TestClient(app)

    def names(**headers: str) -> list[str]:
        return [model["id"] for model in http.get("/v1/models", headers=headers).json()["data"]]

    everything, closed = ["base", "aligned-g000001"], raw_names == "closed"
    assert names() == ([] if closed else everything)
    app.state.erratad.table.set_live("aligned-g000000", None)
    assert names() == (["aligned"] if closed else [*everything, "aligned"])
    assert names(**{"x-erratad-admin-token": "secret"}) == [*everything, "aligned"]
    assert http.get("/openapi.json").status_code == 404


def test_an_api_key_in_the_environment_may_not_be_the_admin_token(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("VLLM_API_KEY", "secret")
    with pytest.raises(ValueError, match="the API key is the admin token"):
        _start(["base"])
    assert _start(["base"], api_key=["another"]).table.live is None


def test_a_sound_adapter_folder_passes(make_adapter: Callable[..., Path]) -> None:
    check_folder(make_adapter())


def test_a_folder_with_a_nan_is_refused_and_the_tensor_is_named(make_adapter: Callable[..., Path]) -> None:
    with pytest.raises(RequestRefused, match=r"NaN or infinity, first in .*lora_A"):
        check_folder(make_adapter(nan=True))


@pytest.mark.parametrize("content", [None, b"", b"not safetensors"])
def test_a_folder_without_readable_safetensors_is_refused(
    make_adapter: Callable[..., Path], content: bytes | None
) -> None:
    folder = make_adapter()
    weights = folder / "adapter_model.safetensors"
    weights.unlink() if content is None else weights.write_bytes(content)
    with pytest.raises(RequestRefused, match=r"adapter_model\.safetensors"):
        check_folder(folder)


@pytest.mark.usefixtures("environment")
def test_the_first_probe_is_made_before_the_server_takes_requests_and_is_short() -> None:
    client, app, plugin = Client(), FastAPI(), AliasPlugin()
    plugin.attach_router(app)
    app.state.openai_serving_models = SimpleNamespace(base_model_paths=[SimpleNamespace(name="base")], model_name=None)
    asyncio.run(plugin.init_state(client, app.state, Namespace(enable_lora=True)))
    assert [(params.max_tokens, params.prompt_logprobs) for params in client.asked] == [(1, 0)]


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("text", "logprob", "ok", "finite", "differs"),
    [
        (" art", FINE, True, True, True),
        (" art", -1.0, False, True, False),
        ("!", NAN, False, False, False),
        ("", -float("inf"), False, False, False),
        (" ", FINE, False, True, True),
    ],
)
def test_a_probe_of_one_token_finds_broken_adapters(
    text: str, logprob: float, *, ok: bool, finite: bool, differs: bool
) -> None:
    client = Client()
    client.says["lora"] = text, logprob
    engine = VllmEngine(client, SimpleNamespace(lora_requests={"aligned-g000001": "lora"}))
    probe = asyncio.run(engine.probe("aligned-g000001"))
    assert (probe.ok, probe.finite, probe.differs_from_base, probe.text) == (ok, finite, differs, text)


@pytest.mark.usefixtures("environment")
def test_an_adapter_may_say_nothing_where_the_base_model_does() -> None:
    client = Client()
    client.says.update({None: ("", -1.0), "lora": ("", FINE)})
    engine = VllmEngine(client, SimpleNamespace(lora_requests={"aligned-g000001": "lora"}))
    assert asyncio.run(engine.probe("aligned-g000001")).ok
