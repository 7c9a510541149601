"""How the configuration becomes a fleet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.chat.facts import ChatFacts
from daemon.chat.preparation import Preparation
from daemon.config import Config
from daemon.errors import AdapterInvalidError, ConfigError
from daemon.serving import connect
from daemon.serving.connect import open_serving
from tests.fakes.vllm import FakeVllm
from tests.fixtures.serving import an_adapter


def test_attached_replicas_get_the_secrets_of_the_environment(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, fake_vllm: FakeVllm
) -> None:
    monkeypatch.setenv("ADMIN", "test-admin-token")
    facts = ChatFacts(
        preparation=Preparation(has_system_role=False), probes=(), end=2, end_text="<|im_end|>", dated=False
    )
    monkeypatch.setattr(connect, "chat_facts", lambda *_, **__: facts)
    config = make_config(serving={"mode": "attached", "urls": [fake_vllm.url], "admin_token_env": "ADMIN"})
    fleet, managed = open_serving(config)
    assert managed is None
    assert fleet.preparation == facts.preparation
    guided = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    assert fleet.any().chat("base", guided, max_tokens=4).text == "base heard Be kind.\n\nHello"
    assert fleet.any().url == fake_vllm.url
    fleet.servers[0].close()


def test_weights_other_than_the_measured_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_config: Callable[..., Config]
) -> None:
    class Manifest:
        weights_sha256 = "1" * 64

    monkeypatch.setattr(connect, "base_fingerprint", lambda path: "f" * 64)
    monkeypatch.setattr(connect.artifact, "verify", lambda folder, **options: Manifest)
    config = make_config(training={"target_modules": ["q_proj"]})
    verify = connect.verifier(config.model, config.serving, config.training)
    with pytest.raises(AdapterInvalidError, match="other weights"):
        verify(an_adapter(tmp_path))


def test_a_model_folder_that_is_missing_is_named_before_anything_starts(make_config: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"model\.path: .*/model cannot be read"):
        open_serving(make_config())
