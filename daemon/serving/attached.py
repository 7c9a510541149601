"""The vLLM server that `erratad vllm` becomes: one of those that a daemon in attached mode steers."""

from __future__ import annotations

from daemon.config import Config, secret
from daemon.errors import ConfigError
from daemon.serving.command import Command, command, installed_vllm, runs_on_cpu


def attached_command(config: Config, *, host: str, port: int) -> Command:
    """What to start from the configuration that the daemon reads, listening on `host` and `port`.

    Raises:
        ConfigError: when no admin token is named or set (daemon and server must share one), or vLLM is not installed.
    """
    serving, installed = config.serving, installed_vllm()
    admin_token = secret(serving.admin_token_env)
    if admin_token is None:
        raise ConfigError("serving.admin_token_env: name the variable with the token that daemon and servers share")
    if installed is None:
        raise ConfigError("vLLM is not installed here; pip install 'erratad[gpu]' or 'erratad[cpu]'")
    return command(
        config.model,
        serving.model_copy(update={"host": host}),
        config.training,
        port=port,
        admin_token=admin_token,
        api_key=secret(serving.api_key_env),
        cpu=runs_on_cpu(serving, installed),
    )
