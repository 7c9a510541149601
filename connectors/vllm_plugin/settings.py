"""Settings of the plugin inside vLLM, from the server's environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from connectors.adapter_store import STORE_URL, AdapterStore, options_of
from connectors.vllm_plugin.cache import CacheSettings
from connectors.vllm_plugin.exchanges import ExchangeSettings
from connectors.vllm_plugin.routes import open_routes

SYSTEM_ROLE_VALUES = {"auto": None, "yes": True, "no": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasSettings:
    """Settings of the plugin, read from the server's environment."""

    alias: str
    base_name: str
    guidance: str
    admin_token: str
    system_role: bool | None = None
    """Whether the chat template has a system role; None: the plugin asks the server."""
    open_routes: tuple[str, ...] = ()
    """Open routes besides `connectors.vllm_plugin.routes.OPEN_ROUTES`."""
    raw_names: bool = True
    """Whether clients without the admin token may ask for models other than the alias."""
    exchanges: ExchangeSettings | None = None
    """The bounds of the log of exchanges; None: it is off."""
    cache: CacheSettings | None = None
    """Where adapters are pulled from, and where they are kept; None: the daemon names folders of a shared disk."""

    def __post_init__(self) -> None:
        if self.base_name == self.alias or self.generation(self.base_name) is not None:
            raise ValueError(f"ERRATAD_BASE_NAME {self.base_name!r} would be shadowed by the alias {self.alias!r}")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> AliasSettings:
        """Raises ValueError with the names of missing variables, or of one with another value than it may have."""
        names = ("ERRATAD_ALIAS", "ERRATAD_BASE_NAME", "ERRATAD_ADMIN_TOKEN")
        missing = [name for name in names if not environ.get(name)]
        if missing:
            raise ValueError(f"set {', '.join(missing)}: the erratad plugin of vLLM cannot start without them")
        alias, base_name, token = (environ[name] for name in names)
        return cls(
            alias=alias,
            base_name=base_name,
            guidance=environ.get("ERRATAD_GUIDANCE", ""),
            admin_token=token,
            system_role=SYSTEM_ROLE_VALUES[_choice(environ, "ERRATAD_SYSTEM_ROLE", *SYSTEM_ROLE_VALUES)],
            open_routes=open_routes(environ.get("ERRATAD_OPEN_ROUTES", "")),
            raw_names=_choice(environ, "ERRATAD_RAW_NAMES", "open", "closed") == "open",
            exchanges=_exchanges(environ),
            cache=_cache(environ),
        )

    def generation(self, name: str) -> int | None:
        """17 for ``aligned-g000017`` and, at a lower strength, for ``aligned-g000017-s75``; None for any other name."""
        match = re.fullmatch(rf"{re.escape(self.alias)}-g([0-9]{{6,9}})(-s[0-9]{{2}})?", name)
        return int(match[1]) if match else None


def _choice(environ: Mapping[str, str], name: str, *values: str) -> str:
    """A variable that may have one of the values; without it, the first of them."""
    given = environ.get(name) or values[0]
    if given not in values:
        raise ValueError(f"{name} is {given!r}; set one of {', '.join(values)}")
    return given


def _exchanges(environ: Mapping[str, str]) -> ExchangeSettings | None:
    if _choice(environ, "ERRATAD_EXCHANGES", "off", "on") == "off":
        return None
    usual = ExchangeSettings()
    return ExchangeSettings(
        ttl_s=_positive(environ, "ERRATAD_EXCHANGES_TTL_S", usual.ttl_s),
        max_bytes=int(_positive(environ, "ERRATAD_EXCHANGES_MAX_BYTES", usual.max_bytes)),
    )


def _cache(environ: Mapping[str, str]) -> CacheSettings | None:
    url = environ.get("ERRATAD_ADAPTER_STORE")
    if not url:
        return None
    if not re.fullmatch(STORE_URL, url):
        raise ValueError(
            "ERRATAD_ADAPTER_STORE: set a URL such as s3://bucket/prefix, without a password and a / at the end"
        )
    folder = Path(environ.get("ERRATAD_ADAPTER_CACHE") or "")
    if not folder.is_absolute():
        raise ValueError("ERRATAD_ADAPTER_CACHE: set the absolute path of a folder on this server's own disk")
    try:
        options = options_of(environ.get("ERRATAD_ADAPTER_STORE_OPTIONS", ""))
    except ValueError as exc:
        raise ValueError(f"ERRATAD_ADAPTER_STORE_OPTIONS is {exc}") from None
    usual = CacheSettings(store=AdapterStore(url=url, options=options), folder=folder)
    return replace(
        usual,
        max_bytes=int(_positive(environ, "ERRATAD_ADAPTER_CACHE_MAX_BYTES", usual.max_bytes)),
        max_adapters=int(_positive(environ, "ERRATAD_ADAPTER_CACHE_MAX_ADAPTERS", usual.max_adapters)),
        timeout_s=_positive(environ, "ERRATAD_ADAPTER_PULL_TIMEOUT_S", usual.timeout_s),
        max_bytes_per_s=_positive(environ, "ERRATAD_ADAPTER_PULL_BYTES_PER_S", usual.max_bytes_per_s),
    )


def _positive(environ: Mapping[str, str], name: str, usual: float) -> float:
    given = environ.get(name) or str(usual)
    try:
        number = float(given)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ValueError(f"{name} is {given!r}; set a number above 0")
    return number
