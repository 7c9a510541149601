"""Properties of a real vLLM only: exact scores, rows that do not mix, adapters that would damage the engine's state."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from connectors.chat import EndpointError
from connectors.vllm import Score, VllmServer
from connectors.vllm_wire import ADMIN_HEADER
from daemon.adapter_names import strength_name
from daemon.artifacts.strength import weakened
from tests.fakes.vllm import ADMIN_TOKEN
from tests.fixtures.models import with_manifest
from tests.fixtures.servers import MAX_LORAS, RealServer, base_and_adapted

pytestmark = pytest.mark.vllm

ROOT = Path(__file__).parents[2]
BASE = "base"
MESSAGES = [{"role": "user", "content": "Why is the sky blue? Answer in one sentence."}]
COMPLETION = "The sky is blue because air scatters short waves of light more than long ones."
BF16_NATS_PER_TOKEN = 0.1
"""Maximum difference of two computations in bfloat16, where logits of 16 to 32 are multiples of 0.125."""
_generations = itertools.count(910_001)


@pytest.fixture
def client(real_vllm: RealServer, make_client: Callable[..., VllmServer]) -> VllmServer:
    return make_client(real_vllm.url)


@pytest.fixture
def adapters(client: VllmServer, make_adapter: Callable[..., Path]) -> Iterator[dict[str, Path]]:
    """An adapter in every slot of the engine, by name: stock vLLM fails only with a full last slot."""
    folders = {f"aligned-g{next(_generations)}": make_adapter(seed=seed) for seed in range(MAX_LORAS)}
    for name, folder in folders.items():
        client.load(name, folder)
    yield folders
    for name in folders:
        assert client.unload(name)


def _hf_scores(model: Path, adapter: Path) -> tuple[Score, Score]:
    """Base and adapted."""
    return base_and_adapted(model=str(model), adapter=str(adapter), messages=MESSAGES, completion=COMPLETION)


def test_before_the_first_flip_the_alias_is_unavailable(real_vllm: RealServer) -> None:
    answer = real_vllm.first_answer
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["error"]["message"].startswith("no generation is live")


def test_scores_equal_those_of_transformers_and_peft(
    client: VllmServer, adapters: dict[str, Path], tiny_model: Path
) -> None:
    name, folder = next(iter(adapters.items()))
    base, adapted = _hf_scores(tiny_model, folder)
    tolerance = BF16_NATS_PER_TOKEN * base.tokens
    assert abs(base.logprob - adapted.logprob) > 4 * tolerance, (
        "the adapter must matter for this test to mean something"
    )
    for model, expected in ((BASE, base), (name, adapted)):
        score = client.score(model, MESSAGES, COMPLETION)
        assert score.tokens == expected.tokens
        assert score.logprob == pytest.approx(expected.logprob, abs=tolerance)


def test_a_weaker_adapter_is_served_at_its_strength(
    client: VllmServer, make_adapter: Callable[..., Path], tiny_model: Path
) -> None:
    trained = make_adapter()
    with_manifest(trained)
    weaker = weakened(trained, 0.5)
    (_, full), (_, half) = (_hf_scores(tiny_model, folder) for folder in (trained, weaker))
    tolerance = BF16_NATS_PER_TOKEN * half.tokens
    assert abs(full.logprob - half.logprob) > 4 * tolerance, "the strength must matter"
    name = strength_name(f"aligned-g{next(_generations):06d}", 0.5)
    client.load(name, weaker)
    assert client.score(name, MESSAGES, COMPLETION).logprob == pytest.approx(half.logprob, abs=tolerance)
    assert client.unload(name)


def test_base_and_adapters_in_one_batch_score_as_they_do_alone(client: VllmServer, adapters: dict[str, Path]) -> None:
    models = [BASE, *adapters, BASE]
    alone = {model: client.score(model, MESSAGES, COMPLETION) for model in models}
    with ThreadPoolExecutor(len(models)) as pool:
        together = list(pool.map(lambda model: client.score(model, MESSAGES, COMPLETION), models))
    for model, score in zip(models, together, strict=True):
        assert score.logprob == pytest.approx(alone[model].logprob, abs=BF16_NATS_PER_TOKEN * score.tokens)


def test_greedy_base_answers_are_the_same_beside_adapter_answers(client: VllmServer, adapters: dict[str, Path]) -> None:
    models = [BASE, *adapters, BASE]
    with ThreadPoolExecutor(len(models)) as pool:
        texts = list(pool.map(lambda model: client.chat(model, MESSAGES, max_tokens=1).text, models))
    assert len(set(texts)) > 1
    # one token: at a later one two may be so near in bfloat16 that the size of the batch decides
    assert texts == [client.chat(model, MESSAGES, max_tokens=1).text for model in models]


def test_requests_with_a_seed_that_are_read_in_parts_are_answered(client: VllmServer) -> None:
    def ask(number: int) -> str:
        words = " ".join(f"word{number}-{place}" for place in range(120))
        return client.chat(
            "base", [{"role": "user", "content": words}], max_tokens=4, temperature=1.0, seed=number
        ).text

    with ThreadPoolExecutor(24) as pool:
        together = list(pool.map(ask, range(24)))

    assert len(set(together)) > 1
    assert client.ready()


def test_an_adapter_that_changes_nothing_fails_its_probe(client: VllmServer, make_adapter: Callable[..., Path]) -> None:
    name = "aligned-g000900001"
    client.load(name, make_adapter(scale=0.0))
    probe = client.probe(name)
    assert (probe.ok, probe.finite, probe.differs_from_base) == (False, True, False)
    assert client.unload(name)


def test_an_adapter_with_a_nan_never_reaches_the_engine(client: VllmServer, make_adapter: Callable[..., Path]) -> None:
    before = client.score(BASE, MESSAGES, COMPLETION)
    with pytest.raises(EndpointError, match="NaN or infinity"):
        client.load("aligned-g000900002", make_adapter(nan=True))
    assert client.score(BASE, MESSAGES, COMPLETION).logprob == pytest.approx(before.logprob, abs=0.1)


def test_an_adapter_of_too_high_a_rank_is_refused_by_the_engine(
    client: VllmServer, make_adapter: Callable[..., Path]
) -> None:
    with pytest.raises(EndpointError, match="rank") as caught:
        client.load("aligned-g000900003", make_adapter(rank=32))
    assert not caught.value.transient
    assert "aligned-g000900003" not in client.state().adapters
    client.load("aligned-g000900003", make_adapter(rank=8))
    assert client.unload("aligned-g000900003")


def test_a_real_server_exports_what_the_recording_has(real_vllm: RealServer) -> None:
    def names(text: str) -> set[str]:
        return {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE vllm:")}

    recorded = (ROOT / "tests" / "fakes" / "vllm_metrics.txt").read_text()
    assert names(recorded) <= names(httpx.get(f"{real_vllm.url}/metrics", headers={ADMIN_HEADER: ADMIN_TOKEN}).text)
