"""The admin routes `/erratad/v1/*` of a server with an alias: load, probe, flip, drain, unload."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from http import HTTPStatus
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, Depends, FastAPI, Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from connectors.adapter_store import STORE_URL, StoredAdapter
from connectors.vllm_plugin.alias import AliasMiddleware, AliasTable
from connectors.vllm_plugin.cache import AdapterCache
from connectors.vllm_plugin.errors import RequestRefused
from connectors.vllm_plugin.exchanges import Exchanges
from connectors.vllm_plugin.routes import ADMIN_PREFIX, RouteGate, has_token
from connectors.vllm_wire import INTERFACE, TERM_HEADER, ProbeResult, Trial, Work

MAX_IDS = 100
"""Exchanges asked for in one request."""


class Engine(Protocol):
    """Interface that the routes need from the server."""

    async def load(self, name: str, path: str) -> None:
        """Load an adapter under a name that is not loaded yet.

        Raises:
            RequestRefused: when the folder is unusable; nothing is loaded then.
        """
        ...

    async def unload(self, name: str) -> None:
        """Remove the adapter from front-end and engine. Returns when the engine no longer holds it."""
        ...

    async def probe(self, name: str | None) -> ProbeResult:
        """Send a probe request to the adapter, or to the base model (None)."""
        ...

    def busy(self, name: str) -> bool:
        """Whether the engine still runs requests of the adapter, including cancelled ones."""
        ...

    def tokens(self) -> int | None:
        """Tokens of all prompts and answers since the start; None if the server does not count them."""
        ...


class Admin:
    """Runs the admin calls. Loads and unloads run one at a time.

    `term`: the leadership that an order is of (`AliasTable.obey`); it is checked again once the order's turn has come.
    """

    def __init__(self, table: AliasTable, engine: Engine) -> None:
        cache = table.settings.cache
        self.table = table
        self.cache = None if cache is None else AdapterCache(cache, table.traffic.registry)
        self._engine = engine
        self._changing = asyncio.Lock()

    async def load_stored(self, name: str, stored: StoredAdapter, term: int | None = None) -> None:
        """Pull an adapter from the store and load it. Idempotent. Other calls go on during the download."""
        self._check_adapter_name(name)
        if self.cache is None:
            raise RequestRefused(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "no_adapter_store",
                "this server pulls no adapters: set ERRATAD_ADAPTER_STORE and ERRATAD_ADAPTER_CACHE, and restart it",
            )
        folder = self.cache.folder(name, stored)
        with self.cache.holding(folder, stored.bytes):
            if not self.table.loaded(name):
                async with self._changing:  # an adapter that is being unloaded is in no table, and still needed
                    needed = [self.table.origin(loaded) or "" for loaded in self.table.adapters()]
                    await self.cache.make_room(folder, needed=needed)
                await self.cache.pull(stored, folder)
            await self.load(name, str(folder), term)

    async def load(self, name: str, path: str, term: int | None = None) -> None:
        """Load an adapter. Idempotent; a name can never be loaded from a second folder."""
        self._check_adapter_name(name)
        async with self._changing:
            self.table.obey(term)
            if self.table.origin(name) not in {None, path}:
                raise RequestRefused(
                    HTTPStatus.CONFLICT,
                    "name_reused",
                    f"{name} was loaded from {self.table.origin(name)}; give other weights another generation",
                )
            if self.table.loaded(name):
                self.table.keep(name)
                return
            await self._engine.load(name, path)
            self.table.add(name, path)

    async def unload(self, name: str, term: int | None = None) -> bool:
        """Drain and remove an adapter. False while requests are in flight (call again)."""
        self._check_adapter_name(name)
        async with self._changing:
            self.table.obey(term)
            if not self.table.loaded(name):
                return True
            if name == self.table.live:
                raise RequestRefused(
                    HTTPStatus.CONFLICT, "adapter_live", f"{name} is live; make another generation live first"
                )
            if self.table.drain(name) or self._engine.busy(name):
                return False
            await self._remove(name)
            return True

    async def _remove(self, name: str) -> None:
        path = self.table.origin(name) or ""
        self.table.drop(name)  # first, so that no new request reaches the adapter while the engine unloads it
        try:
            await self._engine.unload(name)
        except BaseException:
            self.table.add(name, path)
            self.table.drain(name)
            raise

    async def probe(self, name: str) -> ProbeResult:
        if not self.table.serves(name):
            raise RequestRefused(HTTPStatus.NOT_FOUND, "not_loaded", f"adapter {name} is not loaded; load it first")
        return await self._engine.probe(name if self.table.loaded(name) else None)

    def work(self) -> Work | None:
        """What the server has done since its start."""
        tokens, traffic = self._engine.tokens(), self.table.traffic
        if tokens is None:
            return None
        return Work(
            tokens=tokens,
            users=self.table.users,
            users_seconds=traffic.answered_s,
            users_tokens=traffic.answered_tokens,
        )

    def _check_adapter_name(self, name: str) -> None:
        if not self.table.settings.generation(name):
            raise RequestRefused(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "bad_name",
                f"{name!r} is no adapter name; it must look like {self.table.settings.alias}-g000001",
            )


class AdapterFolder(BaseModel):
    model_config = ConfigDict(extra="forbid")
    path: Annotated[str, Field(pattern=r"^/")]


class AdapterInStore(BaseModel):
    """An adapter that the daemon published. A plugin from before there was a store refuses it: it asks for `path`."""

    model_config = ConfigDict(extra="forbid")
    url: Annotated[str, Field(pattern=f"^{STORE_URL}$")]
    listing_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class TrialOrder(BaseModel):
    model_config = ConfigDict(extra="forbid")
    mode: Literal["canary", "shadow"]
    name: str
    share: Annotated[float, Field(gt=0, le=1)]
    concurrency: Annotated[int, Field(gt=0)] = 1


class Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid")
    ids: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=MAX_IDS)]


class Flip(BaseModel):
    model_config = ConfigDict(extra="forbid")
    live: str
    expected: str | None = None


def install(app: FastAPI, table: AliasTable) -> None:
    """Add the alias and the admin routes. `app.state.erratad` must be an `Admin` before the first request."""
    app.state.erratad_token = table.settings.admin_token
    app.add_middleware(AliasMiddleware, table=table)
    app.add_exception_handler(RequestRefused, _refused)
    app.include_router(router)
    app.include_router(open_router)


def guard(app: FastAPI, table: AliasTable) -> None:
    """Close all routes that are not listed, outside of all other middleware.

    Call it last: vLLM 0.32 has built the middleware before it calls a plugin's `init_state`.
    """
    settings = table.settings
    app.middleware_stack = RouteGate(
        app.middleware_stack or app.build_middleware_stack(),
        token=settings.admin_token,
        also_open=settings.open_routes,
        raw_names=settings.raw_names,
    )


async def _refused(_request: Request, refusal: Exception) -> JSONResponse:
    assert isinstance(refusal, RequestRefused)  # noqa: S101 - registered for that class only
    return refusal.response()


def _authorized(request: Request) -> None:
    if not has_token(request.scope, request.app.state.erratad_token):
        raise RequestRefused(
            HTTPStatus.UNAUTHORIZED, "unauthorized", "give the admin token: Authorization: Bearer TOKEN"
        )


def _admin(request: Request) -> Admin:
    admin: Admin = request.app.state.erratad
    return admin


Admins = Annotated[Admin, Depends(_admin)]
GivenTerm = Annotated[int | None, Header(alias=TERM_HEADER, ge=0)]


async def _hear(admin: Admins, term: GivenTerm = None) -> int | None:
    admin.table.hear(term)
    return term


async def _obey(admin: Admins, term: Annotated[int | None, Depends(_hear)]) -> int | None:
    admin.table.obey(term)
    return term


OrderTerm = Annotated[int | None, Depends(_obey)]
"""Of a route that changes something; the route is not entered if the order is of an earlier leadership."""
router = APIRouter(
    prefix=ADMIN_PREFIX.rstrip("/"), dependencies=[Depends(_authorized), Depends(_hear)], include_in_schema=False
)


open_router = APIRouter(prefix=ADMIN_PREFIX.rstrip("/"), include_in_schema=False)


@open_router.get("/ready")
async def _ready(admin: Admins) -> JSONResponse:
    """Whether requests under the alias would be answered. Needs no token: for load balancers."""
    table = admin.table
    ready = table.live is not None and table.serves(table.live)
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse({"ready": ready, "live": table.live}, status_code=status)


@router.get("/state")
async def _state(admin: Admins) -> dict[str, Any]:
    table = admin.table
    table.exchanges.forget_old()
    work = admin.work()
    return {
        "alias": table.settings.alias,
        "live": table.live,
        "epoch": table.epoch,
        "term": table.term,
        "interface": INTERFACE,
        "pulls_from": "" if admin.cache is None else admin.cache.url,
        "adapters": table.adapters(),
        "traffic": table.traffic.shown(),
        "guidance_refusals": table.traffic.refusals(),
        "trial": None if table.trial is None else asdict(table.trial),
        "work": None if work is None else asdict(work),
        "shadowed": {name: figures.shown() for name, figures in table.shadowed.items()},
    }


@router.put("/adapters/{name}")
async def _load(name: str, adapter: AdapterFolder | AdapterInStore, admin: Admins, term: OrderTerm) -> dict[str, Any]:
    if isinstance(adapter, AdapterInStore):
        await admin.load_stored(name, StoredAdapter(**adapter.model_dump()), term)
    else:
        await admin.load(name, adapter.path, term)
    return {"loaded": name}


@router.delete("/adapters/{name}")
async def _unload(name: str, admin: Admins, term: OrderTerm) -> JSONResponse:
    gone = await admin.unload(name, term)
    return JSONResponse({"gone": gone}, status_code=HTTPStatus.OK if gone else HTTPStatus.ACCEPTED)


@router.post("/adapters/{name}/probe")
async def _probe(name: str, admin: Admins) -> dict[str, Any]:
    return asdict(await admin.probe(name))


@router.put("/alias", dependencies=[Depends(_obey)])
async def _flip(flip: Flip, admin: Admins) -> dict[str, Any]:
    admin.table.set_live(flip.live, flip.expected)
    return {"live": admin.table.live}


@router.put("/trial", dependencies=[Depends(_obey)])
async def _try_out(order: TrialOrder, admin: Admins) -> dict[str, Any]:
    admin.table.try_out(Trial(**order.model_dump()))
    return {"trial": order.name}


@router.delete("/trial", dependencies=[Depends(_obey)])
async def _end_trial(admin: Admins) -> dict[str, Any]:
    admin.table.try_out(None)
    return {"trial": None}


@router.get("/exchanges/{completion_id}")
async def _exchange(completion_id: str, admin: Admins) -> dict[str, Any]:
    """What was answered under this id, also if several requests had it."""
    return {"exchanges": _exchanges(admin).find(completion_id)}


@router.post("/exchanges")
async def _find(wanted: Wanted, admin: Admins) -> dict[str, Any]:
    """The same for several ids; an id that is not known has none."""
    exchanges = _exchanges(admin)
    return {"exchanges": {completion_id: exchanges.find(completion_id) for completion_id in wanted.ids}}


@router.delete("/exchanges/{completion_id}")
async def _forget(completion_id: str, admin: Admins) -> dict[str, Any]:
    return {"forgotten": _exchanges(admin).delete(completion_id)}


def _exchanges(admin: Admin) -> Exchanges:
    if not admin.table.exchanges.on:
        raise RequestRefused(
            HTTPStatus.NOT_FOUND, "exchanges_off", "this server keeps no exchanges; start it with ERRATAD_EXCHANGES=on"
        )
    return admin.table.exchanges
