"""Publishes adapters to the store that the servers pull from (`serving.adapter_store`)."""

from __future__ import annotations

from pathlib import Path

import structlog

from connectors.adapter_store import AdapterStore, StoredAdapter, in_child, options_of
from daemon.config.secret import secret
from daemon.config.serving import AdapterStoreConfig
from daemon.errors import ConfigError

log = structlog.get_logger(__name__)


def adapter_store(config: AdapterStoreConfig) -> AdapterStore:
    """The configured store, with the options from the environment.

    Raises:
        ConfigError: the variable is not set, or holds no JSON object.
    """
    try:
        secrets = options_of(secret(config.options_env) or "")
    except ValueError as exc:
        raise ConfigError(f"environment variable {config.options_env} holds {exc} (serving.adapter_store)") from None
    return AdapterStore(url=config.url, options={**config.options, **secrets})


class Publisher:
    """Every call may raise AdapterStoreError. Thread-safe."""

    def __init__(self, store: AdapterStore, *, timeout_s: float) -> None:
        self.url = store.url
        self._store = store
        self._timeout_s = timeout_s
        self._published: dict[str, StoredAdapter] = {}

    def publish(self, name: str, folder: Path) -> StoredAdapter:
        """Have the adapter in the store. A folder that was checked before is not looked at again."""
        if (known := self._published.get(name)) is not None:
            return known
        answer = in_child(self._store, "publish", timeout_s=self._timeout_s, name=name, folder=str(folder.absolute()))
        stored = StoredAdapter(**answer)
        self._published[name] = stored
        log.info("adapter_published", adapter=name, url=stored.url, bytes=stored.bytes)
        return stored

    def forget(self, name: str) -> None:
        """Look at the store again before the next load, because a server could not use what is there."""
        self._published.pop(name, None)

    def remove(self, name: str) -> None:
        """Delete the adapter from the store."""
        self.forget(name)
        in_child(self._store, "remove", timeout_s=self._timeout_s, name=name)
