"""Runs inside vLLM 0.32's API server: binds the alias (`connectors.vllm_plugin.alias`) to vLLM's engine and front-end.

Requirements of a server
------------------------
Environment (if a variable is missing, the server does not start and the error names it):

    VLLM_PLUGINS=erratad,erratad_cpu_lora   # the endpoint plugin and the general plugin, no other
    ERRATAD_ALIAS=aligned                   # the model name in requests of backends
    ERRATAD_BASE_NAME=base                  # equal to --served-model-name
    ERRATAD_GUIDANCE="Answer correctly ..." # may be empty
    ERRATAD_SYSTEM_ROLE=auto                # or yes, no: whether the chat template has a system role
    ERRATAD_ADMIN_TOKEN=...                 # token of /erratad/*, /tokenize and /metrics
    ERRATAD_OPEN_ROUTES=/metrics            # further open routes; all that are not listed answer 404 (`routes`)
    ERRATAD_RAW_NAMES=open                  # closed: clients may ask for the alias only
    ERRATAD_EXCHANGES=off                   # on: keep what was answered lately, in memory, to verify reports
    ERRATAD_EXCHANGES_TTL_S=86400           # an exchange is forgotten after this time ...
    ERRATAD_EXCHANGES_MAX_BYTES=67108864    # ... or when all of them together take more memory, the oldest first
    ERRATAD_ADAPTER_STORE=s3://bucket/adapters  # as serving.adapter_store.url; without it: folders of a shared disk
    ERRATAD_ADAPTER_STORE_OPTIONS={}        # JSON: options of fsspec, or of obstore for s3
    ERRATAD_ADAPTER_CACHE=/var/cache/erratad  # a folder on this server's own disk, for what it pulls
    ERRATAD_ADAPTER_CACHE_MAX_BYTES=10737418240
    ERRATAD_ADAPTER_CACHE_MAX_ADAPTERS=16   # the oldest goes first, but none that is loaded
    ERRATAD_ADAPTER_PULL_TIMEOUT_S=600      # of one download; the next one goes on where it ended
    ERRATAD_ADAPTER_PULL_BYTES_PER_S=104857600
    VLLM_NO_USAGE_STATS=1 HF_HUB_OFFLINE=1
    on CPU also: VLLM_CPU_KVCACHE_SPACE=1 (GiB), OMP_NUM_THREADS=1, OMP_WAIT_POLICY=PASSIVE and
    VLLM_CPU_OMP_THREADS_BIND=nobind        # otherwise vLLM overwrites OMP_NUM_THREADS
    VLLM_ENABLE_V1_MULTIPROCESSING=0        # no separate worker process: starts sooner, needs less memory

Command line:

    python -m connectors.vllm_plugin.start --model DIR --served-model-name BASE_NAME --host H --port P
      --enable-lora --max-lora-rank R --max-loras N --max-cpu-loras 2N
      --lora-target-modules q_proj k_proj v_proj o_proj gate_proj up_proj down_proj   # without lm_head (vLLM #16668)
      --max-model-len L --dtype bfloat16 [--api-key KEY]

No `--middleware` (the plugin adds its own: the alias inside vLLM's authentication, the gate around everything), one
`--served-model-name`, one API server process, and neither VLLM_ALLOW_RUNTIME_LORA_UPDATING nor
VLLM_SKIP_MODEL_NAME_VALIDATION: adapters reach the engine through `PUT /erratad/v1/adapters/{name}` only.
"""

from __future__ import annotations

import asyncio
import math
import os
import uuid
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from prometheus_client import REGISTRY
from starlette.datastructures import State

from connectors.vllm_plugin.admin import Admin, guard, install
from connectors.vllm_plugin.alias import AliasTable, answering_as
from connectors.vllm_plugin.errors import RequestRefused
from connectors.vllm_plugin.routes import has_token
from connectors.vllm_plugin.settings import AliasSettings
from connectors.vllm_wire import ProbeResult

PROBE = "Paris is the capital of France. It is known for its"
"""Short, and asked for one token only, because a probe shares the engine with users' requests."""
MIN_SHIFT_NATS = 0.005
"""Minimum mean change of the probe's token logprobs that counts as a difference from the base model."""
TOKEN_COUNTERS = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
FORBIDDEN_ENVIRONMENT = ("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_SKIP_MODEL_NAME_VALIDATION")
"""With either of them, a request for a missing adapter would get an answer other than 404."""


class AliasPlugin:
    """vLLM's endpoint plugin; the entry point `erratad` in the group `vllm.endpoint_plugins`."""

    name = "erratad"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """vLLM calls this before it adds its own middleware, so its authentication runs before the alias."""
        refused = [name for name in FORBIDDEN_ENVIRONMENT if os.environ.get(name, "0") not in {"", "0"}]
        if refused:
            raise ValueError(f"unset {', '.join(refused)}: erratad changes adapters through its own routes only")
        self._app, self._table = app, AliasTable(AliasSettings.from_environment(os.environ))
        REGISTRY.register(self._table.traffic.registry)  # vLLM's /metrics
        install(app, self._table)
        app.get("/v1/models")(_list_models)

    async def init_state(self, engine_client: Any, state: State, args: Namespace) -> None:
        """Bind the routes to the engine. vLLM has added its middleware before, so the gate added here is the outermost.

        Raises:
            ValueError: when the server was started with options that the alias cannot work with.
        """
        settings, models = self._table.settings, state.openai_serving_models
        names = [model.name for model in models.base_model_paths]
        if names != [settings.base_name]:
            raise ValueError(f"--served-model-name is {names}; ERRATAD_BASE_NAME asks for {settings.base_name!r} alone")
        if (getattr(args, "api_server_count", None) or 1) > 1:
            raise ValueError("--api-server-count must be 1: the processes would not share the alias")
        if settings.admin_token in (getattr(args, "api_key", None) or [os.environ.get("VLLM_API_KEY")]):
            raise ValueError("the API key is the admin token: every client could change adapters; set another one")
        if not args.enable_lora:
            raise ValueError("--enable-lora is missing: no adapter could be loaded")
        _name_generations(models)
        guard(self._app, self._table)
        engine = VllmEngine(engine_client, models)
        await engine.warm()
        state.erratad = Admin(self._table, engine)


def _name_generations(models: Any) -> None:
    """Make `model` in answers the generation's name; vLLM 0.32 always uses the first served name for the base model."""
    stock = models.model_name

    def model_name(lora_request: Any = None) -> str:
        return answering_as(stock(lora_request))

    models.model_name = model_name


async def _list_models(request: Request) -> JSONResponse:
    """vLLM's list of models, plus the alias while a generation is live; only the alias where raw names are closed."""
    listed = await request.app.state.openai_serving_models.show_available_models()
    content = listed.model_dump()
    table: AliasTable = request.app.state.erratad.table
    raw, shown = content["data"], []
    if table.live is not None:
        shown.append({**raw[0], "id": table.settings.alias, "root": table.live, "parent": raw[0]["id"]})
    if table.settings.raw_names or has_token(request.scope, table.settings.admin_token):
        shown = [*raw, *shown]
    return JSONResponse({**content, "data": shown})


class VllmEngine:
    """Adapters in vLLM 0.32: `AsyncLLM` is the engine, `OpenAIServingModels` holds the names in the front-end."""

    def __init__(self, client: Any, models: Any) -> None:
        self._client = client
        self._models = models
        self._base: _ProbeAnswer | None = None

    async def load(self, name: str, path: str) -> None:
        from vllm.lora.request import LoRARequest  # noqa: PLC0415 - keeps this module importable without vLLM

        await asyncio.to_thread(check_folder, Path(path))
        request = LoRARequest(lora_name=name, lora_int_id=self._models.lora_id_counter.inc(1), lora_path=path)
        try:
            await self._client.add_lora(request)
        except Exception as exc:
            if self._client.errored:
                raise
            # vLLM 0.32 raises a bare Exception for every engine failure, and may keep a part of the adapter loaded
            await self._client.remove_lora(request.lora_int_id)
            raise _unusable(path, f"vLLM refuses it: {exc}") from exc
        self._models.lora_requests[name] = request

    async def unload(self, name: str) -> None:
        """vLLM 0.32's own unload route frees the name only (#42633), so the engine is called here."""
        request = self._models.lora_requests.pop(name)
        await self._client.remove_lora(request.lora_int_id)
        if request.lora_int_id in await self._client.list_loras():
            self._models.lora_requests[name] = request
            raise RequestRefused(
                HTTPStatus.INTERNAL_SERVER_ERROR, "still_loaded", f"the engine keeps {name}; try again"
            )

    def busy(self, name: str) -> bool:
        """Asks vLLM 0.32's output processor, because cancelled and background requests outlive their HTTP request."""
        states = self._client.output_processor.request_states
        return any(state.lora_name == name for state in states.values())

    def tokens(self) -> int | None:
        """vLLM's own counters; it has none with --disable-log-stats."""
        counters = REGISTRY.restricted_registry(TOKEN_COUNTERS).collect()
        counts = [sample.value for one in counters for sample in one.samples if sample.name in TOKEN_COUNTERS]
        return int(sum(counts)) if counts else None

    async def warm(self) -> None:
        """Probe the base model, before the server takes requests: vLLM 0.32 compiles what a first probe needs.

        That takes a second, in which no other request goes on.
        """
        await self._base_probe()

    async def probe(self, name: str | None) -> ProbeResult:
        base = await self._base_probe()
        answer = await self._ask_probe(None if name is None else self._models.lora_requests[name])
        finite = answer.finite
        shifts = [abs(a - b) for a, b in zip(answer.prompt_logprobs, base.prompt_logprobs, strict=True)]
        differs = finite and sum(shifts) / len(shifts) > MIN_SHIFT_NATS
        silent = not answer.text.strip() and bool(base.text.strip())
        return ProbeResult(
            ok=finite and not silent and (differs or name is None),
            finite=finite,
            differs_from_base=differs,
            text=answer.text,
        )

    async def _base_probe(self) -> _ProbeAnswer:
        """Cached: the base model's weights never change while the server runs."""
        if self._base is None or not self._base.finite:
            self._base = await self._ask_probe(None)
        return self._base

    async def _ask_probe(self, lora_request: Any) -> _ProbeAnswer:
        from vllm import SamplingParams  # noqa: PLC0415
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            min_tokens=1,
            logprobs=0,
            prompt_logprobs=0,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        request_id = f"erratad-probe-{uuid.uuid4().hex}"
        async for output in self._client.generate({"prompt": PROBE}, params, request_id, lora_request=lora_request):
            final = output
        prompt = _chosen(final.prompt_token_ids[1:], final.prompt_logprobs[1:])
        answer = _chosen(final.outputs[0].token_ids, final.outputs[0].logprobs)
        return _ProbeAnswer(text=final.outputs[0].text, prompt_logprobs=prompt, logprobs=[*prompt, *answer])


@dataclass(frozen=True, slots=True, kw_only=True)
class _ProbeAnswer:
    text: str
    prompt_logprobs: list[float]
    logprobs: list[float]

    @property
    def finite(self) -> bool:
        return all(math.isfinite(value) for value in self.logprobs)


def _chosen(token_ids: Sequence[int], logprobs: Sequence[Mapping[int, Any]]) -> list[float]:
    return [at[token].logprob for token, at in zip(token_ids, logprobs, strict=True)]


def check_folder(folder: Path) -> None:
    """Refuse adapters with NaN: in vLLM 0.32 one NaN corrupts all later answers, those of the base model included.

    Raises:
        RequestRefused: names the file and the problem.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    if not (folder / "adapter_config.json").is_file():
        raise _unusable(folder, "adapter_config.json is missing")
    try:
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as weights:
            broken = [name for name in weights.keys() if not bool(weights.get_tensor(name).isfinite().all())]  # noqa: SIM118
    except (OSError, SafetensorError) as exc:
        raise _unusable(folder, f"adapter_model.safetensors cannot be read: {exc}") from exc
    if broken:
        raise _unusable(folder, f"adapter_model.safetensors holds NaN or infinity, first in {broken[0]}")


def _unusable(folder: Path | str, reason: str) -> RequestRefused:
    return RequestRefused(HTTPStatus.UNPROCESSABLE_ENTITY, "adapter_unusable", f"cannot load {folder}: {reason}")
