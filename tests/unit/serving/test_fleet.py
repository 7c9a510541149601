"""The fleet: servers take turns, and adapters reach them verified."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.chat import EndpointError
from connectors.vllm import VllmServer
from daemon.errors import AdapterInvalidError, ServingError
from daemon.records import Adapter, served_name
from daemon.serving.fleet import Fleet
from tests.fakes.vllm import ADMIN_TOKEN, FakeVllm
from tests.fixtures.serving import an_adapter


def test_ready_servers_take_turns(make_client: Callable[..., VllmServer]) -> None:
    with FakeVllm() as one, FakeVllm() as two:
        fleet = Fleet([make_client(one.url), make_client(two.url)], verify=_no_check)
        urls = [fleet.any().url for _ in range(4)]
        fleet.close()
    assert sorted(urls[:2]) == sorted([one.url, two.url])
    assert urls[:2] == urls[2:]


def test_a_server_that_is_down_is_passed_over(make_client: Callable[..., VllmServer]) -> None:
    down = FakeVllm()
    down.stop()
    with FakeVllm() as up:
        fleet = Fleet([make_client(down.url), make_client(up.url)], verify=_no_check)
        assert {fleet.any().url for _ in range(3)} == {up.url}
        fleet.servers[1].close()


def test_a_fleet_without_a_ready_server_says_so(make_client: Callable[..., VllmServer]) -> None:
    down = FakeVllm()
    down.stop()
    with pytest.raises(ServingError, match="none of 1 vLLM servers is ready"):
        Fleet([make_client(down.url)], verify=_no_check).any()
    with pytest.raises(ServingError, match="none of 0"):
        Fleet(verify=_no_check).any()


def test_a_server_that_refuses_the_admin_token_is_not_ready(make_client: Callable[..., VllmServer]) -> None:
    with FakeVllm() as fake:
        client = make_client(fake.url, admin_token="wrong")
        with pytest.raises(ServingError):
            Fleet([client], verify=_no_check).any()
        client.close()


def test_an_adapter_is_verified_before_it_is_loaded_and_not_again(
    fake_vllm: FakeVllm, make_client: Callable[..., VllmServer], tmp_path: Path
) -> None:
    verified: list[str] = []
    fleet = Fleet([make_client(fake_vllm.url)], verify=lambda adapter: verified.append(adapter.name))
    adapter = an_adapter(tmp_path)
    fleet.ensure_loaded(adapter)
    fleet.ensure_loaded(adapter)
    assert verified == [adapter.name]
    assert fleet.servers[0].state().adapters.keys() == {adapter.name}


def test_an_adapter_that_is_not_sound_reaches_no_server(
    fake_vllm: FakeVllm, make_client: Callable[..., VllmServer], tmp_path: Path
) -> None:
    def refuse(adapter: Adapter) -> None:
        raise AdapterInvalidError("holds NaN")

    fleet = Fleet([make_client(fake_vllm.url)], verify=refuse)
    with pytest.raises(AdapterInvalidError, match="holds NaN"):
        fleet.ensure_loaded(an_adapter(tmp_path))
    assert fleet.servers[0].state().adapters == {}


def test_the_base_model_needs_no_loading(tmp_path: Path) -> None:
    base = an_adapter(tmp_path, generation=0)
    Fleet(verify=_no_check).ensure_loaded(base)
    assert served_name(base, "base") == "base"
    assert served_name(an_adapter(tmp_path), "base") == "aligned-g000003"


def _no_check(adapter: Adapter) -> None:
    pass


class Asked(VllmServer):
    """Counts the requests by their path."""

    asked: Counter[str]

    def _send(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        self.asked[path.rpartition("/")[2]] += 1
        return super()._send(method, path, body, **options)


@pytest.fixture
def asked(fake_vllm: FakeVllm) -> Iterator[Asked]:
    server = Asked(fake_vllm.url, admin_token=ADMIN_TOKEN)
    server.asked = Counter()
    yield server
    server.close()


def test_one_look_at_a_server_serves_all_stages(asked: Asked) -> None:
    fleet = Fleet([asked], verify=_no_check)
    assert fleet.look(asked).live is None
    assert [fleet.any() for _ in range(3)] == [asked] * 3
    assert asked.asked == {"health": 1, "state": 1}
    fleet.look(asked)
    assert asked.asked == {"health": 1, "state": 2}, "a look is always new, and the engine is asked rarely"


def test_the_engine_is_asked_again_after_a_while_and_after_a_failure(
    asked: Asked, fake_vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet([asked], verify=_no_check)
    fleet.look(asked)
    fake_vllm.stop()
    with pytest.raises(EndpointError):
        fleet.look(asked)
    with pytest.raises(ServingError):
        fleet.any()
    fake_vllm.start()
    fleet.look(asked)
    assert (fleet.any(), asked.asked["health"]) == (asked, 2)
    monkeypatch.setattr("daemon.serving.fleet.ENGINE_MEMO_S", 0.0)
    fleet.look(asked)
    assert asked.asked["health"] == 3
