"""The self-test: servers that read conversations otherwise than the trainer are noticed and named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client import REGISTRY

from connectors.vllm import VllmServer
from daemon.chat.facts import ChatFacts, Prompt
from daemon.chat.preparation import Preparation
from daemon.errors import ChatDifferenceError, ConfigError, ServingError
from daemon.serving.fleet import Fleet
from daemon.serving.selftest import SelfTestStage
from tests.fakes.vllm import FakeVllm
from tests.fixtures.life import life

ASKED = ({"role": "user", "content": "Where?"},)
AGAIN = ({"role": "user", "content": "And when?"},)


def facts(**changes: Any) -> ChatFacts:
    """Facts by which a fake server is equal: its tokens are bytes."""
    prompts = {"a question": ASKED, "another": AGAIN}
    probes = tuple(Prompt(name=name, messages=one, ids=_bytes(one)) for name, one in prompts.items())
    plain = ChatFacts(preparation=Preparation(), probes=probes, end=2, end_text="<end_of_turn>", dated=False)
    return plain.model_copy(update=changes)


def _bytes(messages: tuple[dict[str, str], ...]) -> tuple[int, ...]:
    return tuple(f"<user>{messages[0]['content']}<assistant>".encode())


@pytest.fixture
def fleet(fake_vllm: FakeVllm, make_client: Callable[..., VllmServer]) -> Fleet:
    return Fleet([make_client(fake_vllm.url)], verify=lambda _adapter: None)


@pytest.fixture
def log() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


def selftest(fleet: Fleet, read: Callable[[], ChatFacts] = facts) -> SelfTestStage:
    return SelfTestStage(fleet=fleet, base_name="base", facts=read)


def shown() -> dict[str, float | None]:
    states = ("same", "different", "untested")
    return {state: REGISTRY.get_sample_value("erratad_chat_servers", {"state": state}) for state in states}


def test_nothing_is_trained_before_a_server_was_compared(fleet: Fleet) -> None:
    with pytest.raises(ServingError, match="no ready vLLM server has been compared"):
        fleet.check_chat()
    step = selftest(fleet).step(life())
    fleet.check_chat()
    assert step.sentence == "1 of 1 ready vLLM servers read conversations as the trainer does"
    assert shown() == {"same": 1, "different": 0, "untested": 0}


def test_a_difference_is_named_with_conversation_place_texts_and_cause(
    fleet: Fleet, fake_vllm: FakeVllm, log: list[Any]
) -> None:
    other = facts().probes[1].model_copy(update={"ids": (*_bytes(AGAIN)[:-3], 1, 2, 3)})
    stage = selftest(fleet, lambda: facts(probes=(facts().probes[0], other)))

    sentence = stage.step(life()).sentence

    assert sentence.startswith(f"nothing is trained: {fake_vllm.url} reads the conversation 'another' otherwise: ")
    assert f"at token {len(other.ids) - 3} it has 'istant>', the trainer" in sentence
    assert "--chat-template" in sentence
    assert "section `chat`" in sentence
    with pytest.raises(ChatDifferenceError, match="reads the conversation 'another' otherwise"):
        fleet.check_chat()
    assert shown() == {"same": 0, "different": 1, "untested": 0}
    stage.step(life())
    assert [one["event"] for one in log] == ["chat_differs"]


def test_without_a_detokenizer_the_token_ids_are_shown(fleet: Fleet, fake_vllm: FakeVllm) -> None:
    fake_vllm.closed = {"/detokenize"}
    probe = facts().probes[0].model_copy(update={"ids": (60, 1, 2)})
    sentence = selftest(fleet, lambda: facts(probes=(probe,))).step(life()).sentence
    assert (
        "at token 1 it has the tokens 60, 117, 115, 101, 114, 62, 87, 104, 101, the trainer the tokens 60, 1, 2"
        in sentence
    )


def test_a_shorter_prompt_of_the_server_is_a_difference(fleet: Fleet) -> None:
    probe = facts().probes[0].model_copy(update={"ids": (*_bytes(ASKED), 7)})
    sentence = selftest(fleet, lambda: facts(probes=(probe,))).step(life()).sentence
    assert f"at token {len(_bytes(ASKED))} it has nothing, the trainer '" in sentence


def test_a_template_that_shows_the_day_asks_for_a_fixed_one(fleet: Fleet) -> None:
    probe = facts().probes[0].model_copy(update={"ids": (1,)})
    sentence = selftest(fleet, lambda: facts(probes=(probe,), dated=True)).step(life()).sentence
    assert "set chat.date" in sentence


def test_a_conversation_that_only_the_server_refuses_is_a_difference(fleet: Fleet, fake_vllm: FakeVllm) -> None:
    fake_vllm.refuses = "Conversation roles must alternate"
    sentence = selftest(fleet).step(life()).sentence
    assert "refuses the conversation 'a question', which the trainer reads" in sentence
    assert "Conversation roles must alternate" in sentence
    with pytest.raises(ChatDifferenceError):
        fleet.check_chat()


def test_chat_completions_that_do_not_use_the_template_are_noticed(fleet: Fleet, fake_vllm: FakeVllm) -> None:
    fake_vllm.rendered = list(b"<|start|>user")
    sentence = selftest(fleet).step(life()).sentence
    assert "gpt-oss" in sentence
    assert "chat.template" in sentence
    fake_vllm.rendered = None


def test_a_server_that_runs_on_after_the_end_of_turn_is_a_difference(fleet: Fleet, fake_vllm: FakeVllm) -> None:
    fake_vllm.stops_at_end = False
    selftest(fleet).step(life())
    with pytest.raises(ChatDifferenceError, match=r"'<end_of_turn>' \(token 2\).*generation_config\.json"):
        fleet.check_chat()


@pytest.mark.parametrize("route", ["/tokenize", "/v1/chat/completions"])
def test_a_server_that_cannot_be_asked_is_a_warning_and_no_pass(
    fleet: Fleet, fake_vllm: FakeVllm, log: list[Any], route: str
) -> None:
    fake_vllm.closed = {route}
    sentence = selftest(fleet).step(life()).sentence
    assert f"{fake_vllm.url} cannot be compared" in sentence
    assert "HTTP 404" in sentence
    assert "let a proxy pass POST /tokenize" in sentence
    assert "0 of 1 ready vLLM servers read conversations as the trainer does" in sentence
    assert shown() == {"same": 0, "different": 0, "untested": 1}
    assert [one["event"] for one in log] == ["chat_untested"]
    fleet.check_chat()


def test_a_server_is_compared_once_per_start(fleet: Fleet, fake_vllm: FakeVllm) -> None:
    stage = selftest(fleet)
    stage.step(life())
    fake_vllm.stops_at_end = False
    stage.step(life())
    fleet.check_chat()

    fake_vllm.stop()
    assert "cannot be compared yet" in stage.step(life()).sentence
    with pytest.raises(ServingError):
        fleet.check_chat()
    fake_vllm.start()
    stage.step(life())
    with pytest.raises(ChatDifferenceError):
        fleet.check_chat()


def test_one_differing_replica_of_two_is_enough(fake_vllm: FakeVllm, make_client: Callable[..., VllmServer]) -> None:
    with FakeVllm() as other:
        other.stops_at_end = False
        fleet = Fleet([make_client(fake_vllm.url), make_client(other.url)], verify=lambda _adapter: None)
        sentence = selftest(fleet).step(life()).sentence
        assert f"nothing is trained: {other.url}" in sentence
        assert "1 of 2 ready vLLM servers read" in sentence
        with pytest.raises(ChatDifferenceError):
            fleet.check_chat()
        fleet.close()


def test_the_probes_are_read_again_on_a_new_day(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    days = ["2026-02-01", "2026-02-01", "2026-02-02"]
    reads: list[int] = []

    def read() -> ChatFacts:
        reads.append(1)
        return facts()

    monkeypatch.setattr("daemon.serving.selftest.time.strftime", lambda _format: days.pop(0))
    stage = selftest(fleet, read)
    assert [len(reads) for _ in range(3) if stage.step(life())] == [1, 1, 2]


def test_facts_that_cannot_be_read_stop_training_with_the_reason(fleet: Fleet) -> None:
    def broken() -> ChatFacts:
        raise ConfigError("the model has no chat template")

    selftest(fleet).step(life())
    assert "cannot be compared with the trainer: the model has no" in selftest(fleet, broken).step(life()).sentence
    with pytest.raises(ServingError):
        fleet.check_chat()


def test_the_probes_reach_the_server_as_they_were_rendered(fleet: Fleet, fake_vllm: FakeVllm, tmp_path: Path) -> None:
    """Neither alias nor guidance: the name is the base model's."""
    probe = Prompt(name="a question", messages=ASKED, ids=(1, 2, 3))
    (tmp_path / "facts.json").write_text(json.dumps({"probes": [probe.model_dump(mode="json")]}))
    fake_vllm.facts_dir = tmp_path
    selftest(fleet, lambda: facts(probes=(probe,))).step(life())
    fleet.check_chat()
