"""The HTTP addresses of a configuration that erratad calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from daemon.config import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    url: str
    is_base: bool
    """A path is added to it."""
    sent: str | None
    """What should not be sent in the clear; None: a server inside the cluster, for models or training."""


def outgoing(config: Config) -> Mapping[str, Outgoing]:
    """The addresses by the configuration's key."""
    webhook, mlflow, otlp = config.webhook, config.mlflow, config.otlp
    analyst, judge = config.reflection.endpoint, config.evaluation.judge
    named: dict[str, tuple[str | None, str | None]] = {
        "webhook.url": (None if webhook is None else webhook.url, "events"),
        "reflection.endpoint.url": (None if analyst is None else analyst.url, "reports' texts and the key"),
        "evaluation.judge.url": (None if judge is None else judge.url, "answers and the key"),
        "mlflow.tracking_uri": (None if mlflow is None else mlflow.tracking_uri, "figures and the credentials"),
        "otlp.endpoint": (None if otlp is None else otlp.endpoint, "ids, verdicts and the token"),
        "training.ray.address": (config.training.ray.address, None),
        **{f"serving.urls.{index}": (url, None) for index, url in enumerate(config.serving.urls)},
    }
    return {
        key: Outgoing(url=url, is_base=key != "webhook.url", sent=sent)
        for key, (url, sent) in named.items()
        if url is not None
    }
