"""What an erasure does with the active run and with adapters that were trained on the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from connectors.vllm import VllmServer
from daemon.config import Config
from daemon.errors import ConfigError, NotFoundError
from daemon.operations.erasure import erase
from daemon.records import IntentKind, ReportState, RunItem, RunState, Split
from daemon.store import Store
from tests.fakes.vllm import ADMIN_TOKEN, FakeVllm
from tests.fixtures.config import flagged
from tests.fixtures.stores import add, learn, promote, run_to_verdict, start_run

Configure = Callable[..., Config]
ASKED = [{"role": "user", "content": "When does the ferry leave?"}]


def erased(store: Store, make_config: Configure, report_id: str, after: str = "keep") -> dict:
    return erase(store, make_config(privacy={"after_erasure": after}), report_id, actor="op", reason="asked")


def trained(store: Store, run_id: int) -> str:
    return store.runs.items(run_id)[0].report_id


@pytest.mark.parametrize(("after", "asked"), [("keep", None), ("retire", 0), ("retrain", None)])
def test_the_live_adapter_stays_is_rolled_back_or_gets_a_successor(
    sqlite_store: Store, make_config: Configure, after: str, asked: int | None
) -> None:
    run = promote(sqlite_store)
    certificate = erased(sqlite_store, make_config, trained(sqlite_store, run.id), after)
    assert certificate["adapters"] == [{"generation": 1, "name": "aligned-g000001", "state": "live"}]
    assert any("aligned-g000001, live" in one["where"] for one in certificate["remains"])
    rollback = sqlite_store.intents.pending(IntentKind.ROLLBACK)
    assert (None if rollback is None else rollback.target_generation) == asked
    assert (sqlite_store.intents.pending(IntentKind.TRAIN) is not None) == (after == "retrain")


def test_an_erasure_that_is_repeated_is_completed_and_asks_for_nothing_twice(
    sqlite_store: Store, make_config: Configure
) -> None:
    run = promote(sqlite_store)
    report_id = trained(sqlite_store, run.id)
    first = erased(sqlite_store, make_config, report_id, "retrain")
    again = erased(sqlite_store, make_config, report_id, "keep")
    assert again["erased_at"] == first["erased_at"]
    assert again["after_erasure"] == "retrain"
    assert len(sqlite_store.intents.recent()) == 1
    assert sqlite_store.erasures.get(report_id).certificate == again


def test_a_run_that_trains_on_the_report_ends(sqlite_store: Store, make_config: Configure) -> None:
    [report_id] = learn(sqlite_store, flagged())
    run = start_run(sqlite_store)
    assert run is not None
    cluster = sqlite_store.clusters.open(report_id=report_id, category="x", leader_text="A", split=Split.TRAIN)
    item = RunItem(run_id=run.id, report_id=report_id, cluster_id=cluster.id, role=Split.TRAIN)
    sqlite_store.runs.prepared(run.id, [item])
    assert erased(sqlite_store, make_config, report_id)["erased"]["run_ended"] == run.id
    ended = sqlite_store.runs.get(run.id)
    assert ended.state is RunState.FAILED
    assert f"report {report_id} of its dataset was erased" in (ended.reason or "")


@pytest.mark.parametrize(("after", "state"), [("keep", RunState.PROMOTING), ("retire", RunState.FAILED)])
def test_a_candidate_goes_live_only_if_adapters_are_kept(
    sqlite_store: Store, make_config: Configure, after: str, state: RunState
) -> None:
    run = run_to_verdict(sqlite_store)
    erased(sqlite_store, make_config, trained(sqlite_store, run.id), after)
    assert sqlite_store.runs.get(run.id).state is state


def test_a_run_in_preparation_and_one_without_the_report_go_on(sqlite_store: Store, make_config: Configure) -> None:
    [report_id] = learn(sqlite_store, flagged())
    run = start_run(sqlite_store)
    assert run is not None
    assert erased(sqlite_store, make_config, report_id, "retire")["erased"]["run_ended"] is None
    assert sqlite_store.runs.get(run.id).state is RunState.PREPARING


def test_the_certificate_names_other_reports_with_the_same_text(sqlite_store: Store, make_config: Configure) -> None:
    config = make_config()
    first = flagged(messages=[{"role": "system", "content": "You are the assistant of the harbour office."}, *ASKED])
    add(sqlite_store, first, first.model_copy(update={"id": "twin", "reporter": "b"}))
    kept = config.data_dir / "replay" / "base" / "a.json"
    kept.parent.mkdir(parents=True)
    kept.write_text('{"messages": [{"role": "system", "content": "You are the assistant of the harbour office."}]}')
    certificate = erase(sqlite_store, config, first.id, actor="op", reason="asked")
    found = {one["what"]: one["where"] for one in certificate["remains"]}
    assert found["the same conversation and answer"] == "reports twin by others"
    assert found["some of its text, of other reports: twin"] == "replay/base/a.json"
    assert sqlite_store.reports.get("twin").state is ReportState.QUEUED


def test_the_servers_forget_the_exchange_and_the_certificate_names_those_that_did_not_answer(
    sqlite_store: Store, make_config: Configure, fake_vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVERS_TOKEN", ADMIN_TOKEN)
    client = VllmServer(fake_vllm.url, admin_token=ADMIN_TOKEN)
    client.set_live("aligned-g000000", expected=None)
    body = {"model": "aligned", "messages": ASKED}
    completion_id = httpx.post(f"{fake_vllm.url}/v1/chat/completions", json=body).json()["id"]
    assert client.exchanges([completion_id])
    gone = "http://127.0.0.1:1"
    attached = {"mode": "attached", "admin_token_env": "SERVERS_TOKEN", "exchanges": {"enabled": True}}
    one = flagged(completion_id=completion_id)
    add(sqlite_store, one)

    def certificate(*urls: str) -> tuple[Any, list[Any]]:
        config = make_config(serving={**attached, "urls": list(urls)})
        found = erase(sqlite_store, config, one.id, actor="op", reason="asked")
        return found["erased"]["exchange"], [
            entry for entry in found["remains"] if "memory of the model server" in entry["where"]
        ]

    exchange, [left] = certificate(fake_vllm.url, gone)
    assert client.exchanges([completion_id]) == {}
    assert (exchange["completion_id"], exchange["forgotten_by"]) == (completion_id, [fake_vllm.url])
    assert list(exchange["not_reached"]) == [gone]
    assert gone in left["where"]
    assert completion_id in left["what"]
    assert sqlite_store.reports.get(one.id).flagged.completion_id is None
    exchange, remains = certificate(fake_vllm.url)  # erased again, when the other server is no more
    assert (exchange["forgotten_by"], exchange["not_reached"], remains) == ([fake_vllm.url], {}, [])
    client.close()


@pytest.mark.parametrize("enabled", [True, False])
def test_an_exchange_without_a_name_is_left_to_its_time(
    sqlite_store: Store, make_config: Configure, *, enabled: bool
) -> None:
    config = make_config(serving={"exchanges": {"enabled": enabled}})
    [report_id] = learn(sqlite_store, flagged())
    certificate = erase(sqlite_store, config, report_id, actor="op", reason="asked")
    found = [entry for entry in certificate["remains"] if entry["where"] == "memory of the model servers"]
    assert len(found) == enabled
    assert certificate["erased"]["exchange"] is None


def test_a_managed_server_that_does_not_run_is_named(sqlite_store: Store, make_config: Configure) -> None:
    one = flagged(completion_id="chatcmpl-8")
    add(sqlite_store, one)
    config = make_config(serving={"exchanges": {"enabled": True}})
    certificate = erase(sqlite_store, config, one.id, actor="op", reason="asked")
    assert certificate["erased"]["exchange"]["not_reached"] == {"the managed server": "it does not run"}


def test_nothing_is_erased_without_a_usable_key_or_report(sqlite_store: Store, make_config: Configure) -> None:
    [report_id] = learn(sqlite_store, flagged())
    config = make_config(privacy={"key_env": "ERRATAD_TEST_NO_SUCH_KEY"})
    with pytest.raises(ConfigError, match="ERRATAD_TEST_NO_SUCH_KEY"):
        erase(sqlite_store, config, report_id, actor="op", reason="asked")
    assert sqlite_store.reports.get(report_id).state is ReportState.LESSON
    with pytest.raises(NotFoundError):
        erase(sqlite_store, make_config(), "unknown", actor="op", reason="asked")


def test_kafka_that_does_not_answer_is_named_in_the_certificate(sqlite_store: Store, make_config: Configure) -> None:
    [report_id] = learn(sqlite_store, flagged())
    config = make_config(intake={"kafka": {"bootstrap_servers": ["127.0.0.1:1"]}})
    certificate = erase(sqlite_store, config, report_id, actor="op", reason="asked")
    [letters] = [one for one in certificate["remains"] if one["what"] == "perhaps dead letters"]
    assert "not searched" in letters["where"]
    assert letters["earlier"] == "erase it again"
