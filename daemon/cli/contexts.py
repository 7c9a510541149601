"""The server that a command talks to: by option, environment or context. Without one it works on the local store.

A context names a server in a file of the user, as for `kubectl`. The file holds no secret.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from daemon.cli.server import Server
from daemon.errors import ConfigError

FILE, SERVER, TOKEN_FILE, CA_FILE = "ERRATAD_CONTEXTS", "ERRATAD_SERVER", "ERRATAD_TOKEN_FILE", "ERRATAD_CA_FILE"
_KEYS = {"server": "url", "token_file": "token_file", "ca_file": "ca_file"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contexts:
    """The content of the file."""

    servers: Mapping[str, Server] = field(default_factory=dict)
    current: str | None = None

    @classmethod
    def read(cls) -> Self:
        """Without a file there is no context. Raises ConfigError for an unusable one."""
        file = contexts_file()
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return cls()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{file} cannot be read: {exc}") from exc
        import yaml

        try:
            found = yaml.safe_load(text) or {}
            servers = {str(name): _server(values) for name, values in (found.get("contexts") or {}).items()}
            return cls(servers=servers, current=found.get("current"))
        except (yaml.YAMLError, ConfigError, AttributeError, TypeError) as exc:
            raise ConfigError(f"{file} is not a file of contexts: {exc}; `erratad context set` writes one") from exc

    def get(self, name: str) -> Server:
        """Raises ConfigError for an unknown name."""
        if name not in self.servers:
            known = ", ".join(self.servers) or "none is set; see `erratad context set --help`"
            raise ConfigError(f"there is no context {name!r} ({known})")
        return self.servers[name]

    def current_server(self) -> Server | None:
        return None if self.current is None else self.get(self.current)

    def write(self) -> None:
        import yaml

        from daemon.artifacts.files import write_atomically

        named = {name: values_of(server) for name, server in sorted(self.servers.items())}
        content = {"current": self.current, "contexts": named}
        try:
            write_atomically(contexts_file(), yaml.safe_dump(content, sort_keys=False).encode())
        except OSError as exc:
            raise ConfigError(f"{contexts_file()} cannot be written: {exc}") from exc


def names(incomplete: str) -> list[str]:
    """The contexts that the shell proposes; none if the file is unusable."""
    try:
        return [name for name in Contexts.read().servers if name.startswith(incomplete)]
    except ConfigError:
        return []


def contexts_file() -> Path:
    if given := os.environ.get(FILE):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "erratad" / "contexts.yaml"


def chosen(given: Mapping[str, object], *, local: bool) -> Server | None:
    """The server of the options `given`, of the environment, or of the current context. None: the local store.

    An option comes before the environment, and that before the current context. `local`: an option names a
    configuration of this machine.

    Raises:
        ConfigError: The options contradict each other, or a context is unknown.
    """
    url, name = given.get("server"), given.get("context")
    if url and name:
        raise ConfigError("give --server or --context, not both")
    if (url or name) and local:
        raise ConfigError("give --config or --set for the store of this machine, or --server or --context, not both")
    if name:
        return _with_files(Contexts.read().get(str(name)), given)
    if not url and local:
        return None
    if url := url or os.environ.get(SERVER):
        files = _path(os.environ.get(TOKEN_FILE)), _path(os.environ.get(CA_FILE))
        return _with_files(Server(url=str(url), token_file=files[0], ca_file=files[1]), given)
    if os.environ.get("ERRATAD_CONFIG"):
        return None
    current = Contexts.read().current_server()
    return None if current is None else _with_files(current, given)


def _with_files(server: Server, given: Mapping[str, object]) -> Server:
    token = given.get("token_file") or server.token_file
    authority = given.get("ca_file") or server.ca_file
    return replace(server, token_file=_path(token), ca_file=_path(authority))


def _path(value: object) -> Path | None:
    return Path(str(value)).expanduser() if value else None


def _server(values: Mapping[str, Any]) -> Server:
    unknown = set(values) - set(_KEYS)
    if unknown or "server" not in values:
        raise ConfigError(f"a context has the keys {', '.join(_KEYS)}, and this one {', '.join(map(str, values))}")
    files = {key: Path(str(values[key])).expanduser() for key in ("token_file", "ca_file") if values.get(key)}
    return Server(url=str(values["server"]), **files)


def values_of(server: Server) -> dict[str, str]:
    found = {key: getattr(server, field_) for key, field_ in _KEYS.items()}
    return {key: str(value) for key, value in found.items() if value is not None}
