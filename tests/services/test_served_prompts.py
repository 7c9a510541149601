"""What is trained is what is served: a real vLLM makes the trainer's token ids, template by template.

One server is started from a configuration with the section `chat`, as the daemon starts it. It takes further templates
with each request, so that it stands for servers with these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.messages import decode
from connectors.vllm import VllmServer
from connectors.vllm_wire import ADMIN_HEADER
from daemon.chat.child import facts_of
from daemon.chat.facts import ChatFacts
from daemon.chat.probes import PROBES
from daemon.chat.template import ChatTemplate
from daemon.chat.tokenizer import load_tokenizer
from daemon.config.chat import ChatConfig
from daemon.config.serving import ModelConfig, ServingConfig
from daemon.config.training import TrainingConfig
from daemon.errors import ChatDifferenceError, UnrenderableError
from daemon.records import RunState, conversation
from daemon.serving.command import command, installed_vllm, runs_on_cpu
from daemon.serving.fleet import Fleet
from daemon.serving.selftest import SelfTestStage, compare
from daemon.store import Store
from tests.fakes.vllm import ADMIN_TOKEN, GUIDANCE
from tests.fixtures.chat import TEMPLATES, template_text
from tests.fixtures.life import life
from tests.fixtures.models import TARGET_MODULES
from tests.fixtures.ports import free_port
from tests.fixtures.servers import API_KEY, hf_scores, running_command
from tests.fixtures.training import SUBJECTS, OrdinaryAnswers, dataset_stage, mistake, open_run, prepare, teach

pytestmark = pytest.mark.vllm

SERVED = ChatConfig(
    template=TEMPLATES / "qwen3.jinja", kwargs={"enable_thinking": False}, default_system='Say "ja".\n☺ </s>'
)
CONVERSATIONS = Path(__file__).parents[1] / "fixtures" / "conversations.jsonl"
"""Bodies of reports in shapes that clients send."""
BF16_NATS_PER_TOKEN = 0.1
"""Two computations in bfloat16 differ by as much."""


@pytest.fixture(scope="module")
def url(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the section `chat`, whose raw names are closed; an earlier test may have loaded nothing into it."""
    port = free_port()
    serving = ServingConfig.model_validate(
        {
            "max_model_len": 1024,
            "guidance": GUIDANCE,
            "cpu_threads": 1,
            "raw_names": "closed",
            "extra_args": ["--trust-request-chat-template"],
        }
    )
    started = command(
        ModelConfig(path=tiny_model),
        serving,
        TrainingConfig(target_modules=TARGET_MODULES),
        port=port,
        admin_token=ADMIN_TOKEN,
        api_key=API_KEY,
        cpu=runs_on_cpu(serving, installed_vllm()),
        chat=SERVED,
    )
    log = tmp_path_factory.mktemp("served") / "server.log"
    with running_command(started.argv, started.environment, port=port, log=log) as running:
        yield running.url


@pytest.fixture
def server(url: str, make_client: Callable[..., VllmServer]) -> VllmServer:
    return make_client(url)


@pytest.fixture(scope="module")
def make_template(tiny_model: Path) -> Callable[[ChatConfig], ChatTemplate]:
    tokenizer = load_tokenizer(tiny_model)
    return lambda chat: ChatTemplate(tokenizer, chat)


def reported() -> list[Sequence[Mapping[str, Any]]]:
    reports = [decode(line.encode()) for line in CONVERSATIONS.read_text().splitlines()]
    return [conversation(report) for report in reports if report.not_trainable is None]


def served_ids(url: str, path: str, template: str, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    body = {"model": "base", "messages": messages, "max_tokens": 1, "chat_template": template, "return_token_ids": True}
    headers = {"Authorization": f"Bearer {API_KEY}", ADMIN_HEADER: ADMIN_TOKEN}
    answer = httpx.post(f"{url}{path}", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    found: list[int] = answer.json()["tokens" if path == "/tokenize" else "prompt_token_ids"]
    return found


def test_clients_of_the_server_reach_the_alias_and_no_raw_name(url: str, server: VllmServer) -> None:
    server.set_live("aligned-g000000", expected=None)
    ask = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {API_KEY}"}, timeout=60) as client:
        assert client.post("/v1/chat/completions", json={"model": "aligned", **ask}).status_code == 200
        for named in ({"model": "base"}, {"model": "aligned-g000000"}, {"model": None}, {}):
            for path in ("/v1/chat/completions", "/v1/responses", "/v1/messages"):
                assert client.post(path, json={**named, **ask, "input": "Hello"}).status_code == 404
        for body in (
            b'{"model": "\\u0062ase", "prompt": "aligned"}',
            '{"model": "base", "prompt": "x"}'.encode("utf-16"),
        ):
            answer = client.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
            assert "no other model is open" in answer.text
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["aligned"]
        assert client.get("/metrics").status_code == 200, "a server on loopback opens it"
        assert client.post("/tokenize", json={"model": "base", "prompt": "x"}).status_code == 404


def test_the_server_that_the_daemon_starts_passes_its_self_test(
    server: VllmServer, make_template: Callable[[ChatConfig], ChatTemplate]
) -> None:
    facts = facts_of(make_template(SERVED))
    assert len(facts.probes) > 2
    assert facts.end_text == "<|im_end|>"
    assert compare(server, base_name="base", facts=facts) is None
    text = server.text("base", facts.probes[0].ids)
    assert text.startswith('<|im_start|>system\nSay "ja".\n☺ </s><|im_end|>')
    assert text.endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("name", ["own", "gemma2", "gemma3", "qwen3", "r1", "harmony", "tools"])
def test_the_servers_ids_are_the_trainers(
    url: str, make_template: Callable[[ChatConfig], ChatTemplate], tiny_model: Path, name: str
) -> None:
    source = (tiny_model / "chat_template.jinja").read_text() if name == "own" else template_text(name)
    path = None if name == "own" else TEMPLATES / f"{name}.jinja"
    template = make_template(ChatConfig(template=path, kwargs=SERVED.kwargs))
    compared = 0
    for messages in (*PROBES.values(), *reported()):
        try:
            expected = list(template.prompt_ids(messages))
        except UnrenderableError:
            continue
        sent = template.preparation.messages(messages)
        assert served_ids(url, "/tokenize", source, sent) == expected
        assert served_ids(url, "/v1/chat/completions", source, sent) == expected
        compared += 1
    assert compared > 10
    if name == "tools":
        assert compared == len(PROBES) + len(reported())


def test_an_answer_is_scored_on_the_tokens_that_are_trained(
    url: str, make_template: Callable[[ChatConfig], ChatTemplate], tiny_model: Path
) -> None:
    template = make_template(SERVED)
    asked, answer = [{"role": "user", "content": "Which river is it?"}], "It is the Rhine, and it is long."
    prompt, target = template.encode(asked, answer, ends=False)
    server = VllmServer(url, api_key=API_KEY, admin_token=ADMIN_TOKEN, dialect=template.preparation)
    score = server.score("base", asked, answer)
    server.close()
    found = hf_scores(model=str(tiny_model), prompt=prompt, answer=target)
    assert score.tokens == len(target)
    assert score.logprob == pytest.approx(found["base"], abs=BF16_NATS_PER_TOKEN * len(target))


@pytest.mark.parametrize(
    ("trained", "named"),
    [
        (
            SERVED.model_copy(update={"template": TEMPLATES / "r1.jinja"}),
            "reads the conversation 'a question' otherwise",
        ),
        (SERVED.model_copy(update={"kwargs": {}}), "the trainer"),
        (SERVED.model_copy(update={"default_system": None}), "reads the conversation 'a question' otherwise"),
        (ChatConfig(), "--default-chat-template-kwargs"),
    ],
    ids=["another template", "other variables", "another system message", "no section"],
)
def test_a_server_with_another_template_is_named_and_no_run_is_trained(
    server: VllmServer,
    make_template: Callable[[ChatConfig], ChatTemplate],
    sqlite_store: Store,
    tmp_path: Path,
    trained: ChatConfig,
    named: str,
) -> None:
    fleet = Fleet([server], verify=lambda _adapter: None)

    def facts() -> ChatFacts:
        return facts_of(make_template(trained))

    sentence = SelfTestStage(fleet=fleet, base_name="base", facts=facts).step(life()).sentence
    assert sentence.startswith(f"nothing is trained: {server.url} ")
    assert named in sentence
    with pytest.raises(ChatDifferenceError):
        fleet.check_chat()

    teach(sqlite_store, *(mistake(subject) for subject in SUBJECTS[:12]))
    open_run(sqlite_store, tmp_path / "runs")
    stage = dataset_stage(sqlite_store, tmp_path, tmp_path, OrdinaryAnswers(), check_chat=fleet.check_chat)
    run = prepare(sqlite_store, stage)
    assert run.state is RunState.FAILED
    assert server.url in (run.reason or "")


def test_a_server_that_does_not_stop_at_the_templates_end_is_named(
    server: VllmServer, make_template: Callable[[ChatConfig], ChatTemplate]
) -> None:
    template = make_template(SERVED)
    [letter] = template.prompt_ids([{"role": "user", "content": "Hi"}])[-1:]
    assert server.ends_at("base", [{"role": "user", "content": "Hi"}], template.end)
    facts = facts_of(template).model_copy(update={"end": letter, "end_text": "<end_of_turn>"})
    difference = compare(server, base_name="base", facts=facts)
    assert difference is not None
    assert "does not end an answer at '<end_of_turn>'" in difference
