"""Sources of replicas, valid and refused."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daemon.chat.facts import ChatFacts
from daemon.chat.preparation import Preparation
from daemon.config import Config
from daemon.errors import ServingError
from daemon.operations.preflight import problems
from daemon.serving import discovery
from daemon.serving.connect import open_serving
from daemon.serving.discovery import DiscoveryStage, replicas, source_problem
from tests.fixtures.life import life


def test_a_name_stands_for_all_its_addresses_of_either_family(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        assert (host, port) == ("vllm.svc", 8000)
        tcp = (socket.SOCK_STREAM, 6, "")
        return [
            (socket.AF_INET, *tcp, ("10.0.0.2", 8000)),
            (socket.AF_INET, *tcp, ("10.0.0.1", 8000)),
            (socket.AF_INET6, *tcp, ("fd00::1", 8000, 0, 0)),
        ]

    monkeypatch.setattr(discovery.socket, "getaddrinfo", resolve)
    assert replicas("dns://vllm.svc:8000") == (
        "http://10.0.0.1:8000", "http://10.0.0.2:8000", "http://[fd00::1]:8000",
    )  # fmt: skip


def test_a_real_name_is_resolved() -> None:
    assert "http://127.0.0.1:8000" in replicas("dns://localhost:8000")


def test_a_name_that_does_not_resolve_is_told() -> None:
    with pytest.raises(ServingError, match="cannot be resolved"):
        replicas("dns://no-such-host.invalid:8000")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("replicas", "http://a:1/\n# a comment\n\nb:2  # another\n"),
        ("replicas.json", '[{"targets": ["http://a:1"], "labels": {"zone": "x"}}, {"targets": ["b:2"]}]'),
    ],
)
def test_a_file_lists_one_server_per_line_or_as_prometheus_does(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert replicas(f"file://{tmp_path / name}") == ("http://a:1", "http://b:2")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("replicas", "", "names no server"),
        ("replicas", "ftp://a:1", "neither a URL nor host:port"),
        ("replicas.json", '{"targets": []}', "is not a list"),
        ("replicas.json", "[", "is not a list"),
    ],
)
def test_a_file_that_names_nothing_usable_is_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ServingError, match=words):
        replicas(f"file://{tmp_path / name}")


def test_servers_that_stay_keep_their_client_and_a_lost_source_changes_nothing(tmp_path: Path) -> None:
    file, published = tmp_path / "replicas", []
    file.write_text("a:1\nb:2")

    class Client:
        def __init__(self, url: str) -> None:
            self.url, self.closed = url, False

        def close(self) -> None:
            self.closed = True

    stage: Any = DiscoveryStage(
        source=f"file://{file}",
        interval_s=1,
        connect=Client,
        publish=published.append,  # type: ignore[arg-type]
    )
    stage.step(life())
    file.write_text("b:2\nc:3")
    stage.step(life())
    stage.step(life())
    first, second = published
    assert [server.url for server in second] == ["http://b:2", "http://c:3"]
    assert second[0] is first[1]
    file.unlink()
    assert "as known before" in stage.step(life()).sentence
    assert len(published) == 2
    assert not first[0].closed, "another thread may be in a request"
    stage.close()
    assert [server.closed for server in (*first, second[1])] == [True, False, False]


@pytest.mark.parametrize("source", ["vllm:8000", "dns://vllm", "dns://vllm:x", "file://replicas", "http://vllm:1"])
def test_what_is_no_source_is_refused_with_an_example(source: str) -> None:
    assert "write dns://host:port or file:///path" in (source_problem(source) or "")


@pytest.mark.parametrize("source", ["dns://vllm.svc:8000", "file:///etc/erratad/replicas.json"])
def test_a_source_is_taken(source: str) -> None:
    assert source_problem(source) is None


def test_the_configuration_names_a_source_in_place_of_urls(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ADMIN", "token")
    config = make_config(
        serving={"mode": "attached", "discover": f"file://{tmp_path}/replicas", "admin_token_env": "ADMIN"}
    )
    facts = ChatFacts(preparation=Preparation(), probes=(), end=2, end_text="<|im_end|>", dated=False)
    monkeypatch.setattr("daemon.serving.connect.chat_facts", lambda *_, **__: facts)
    fleet, stage = open_serving(config)
    assert isinstance(stage, DiscoveryStage)
    assert fleet.servers == ()
    bad = make_config(serving={"mode": "attached", "discover": "vllm:8000", "admin_token_env": "ADMIN"})
    assert any(problem.startswith("serving.discover: 'vllm:8000'") for problem in problems(bad))
