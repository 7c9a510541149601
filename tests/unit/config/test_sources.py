"""Which principals a configuration names, and that no two senders can be one."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from daemon.config import Config
from daemon.config.intake import KafkaConfig
from daemon.config.sources import Limits

KAFKA = {"bootstrap_servers": ["broker:9092"], "topic": "flagged"}
FLAGGED = KafkaConfig.model_validate(KAFKA)
TOKENS = [{"name": name, "role": "reporter", "token_env": name.upper()} for name in ("shop", "bank")]
PROXY = {"addresses": ["10.0.0.5"], "roles": {"staff": "reviewer"}}


def _config(sources: list[dict[str, Any]], **http: Any) -> Config:
    values = {
        "model": {"path": "x"},
        "intake": {"kafka": KAFKA, "sources": sources},
        "http": {"tokens": TOKENS, **http},
    }
    return Config.model_validate(values)


def test_a_sender_that_is_not_listed_is_a_principal_of_its_own() -> None:
    sources = _config([]).sources
    assert (sources.of_topic("flagged"), sources.of_token("shop"), sources.of_user("shop")) == (
        "flagged",
        "shop",
        "user:shop",
    )
    assert sources.topics(FLAGGED) == ("flagged",)
    assert not sources.is_trusted("shop")
    assert sources.limits("shop") == Limits(reports=20_000, size_bytes=512 * 1024 * 1024, reports_per_reporter=200)


def test_a_source_names_its_sender_and_has_its_own_trust_and_limits() -> None:
    sources = _config(
        [
            {"name": "support", "topic": "support.flagged", "trusted": True, "max_reports_per_day": 5},
            {"name": "store", "token": "shop", "max_bytes_per_day": 1000, "max_reports_per_reporter_per_day": 7},
            {"name": "ann", "user": "ann@example.org"},
        ],
        proxy=PROXY,
    ).sources
    assert sources.topics(FLAGGED) == ("flagged", "support.flagged")
    assert sources.of_topic("support.flagged") == "support"
    assert sources.of_token("shop") == "store"
    assert sources.of_user("ann@example.org") == "ann"
    assert [sources.is_trusted(name) for name in ("support", "store", "flagged")] == [True, False, False]
    assert sources.limits("support").reports == 5
    assert sources.limits("support").size_bytes == sources.limits("flagged").size_bytes
    assert sources.limits("store") == Limits(reports=20_000, size_bytes=1000, reports_per_reporter=7)


def test_a_source_may_have_the_name_of_its_token_or_topic() -> None:
    sources = _config([{"name": "shop", "token": "shop"}, {"name": "flagged", "topic": "flagged"}]).sources
    assert sources.topics(FLAGGED) == ("flagged",)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ({"name": "a"}, "exactly one of topic, token and user"),
        ({"name": "a", "topic": "t", "token": "shop"}, "exactly one of topic, token and user"),
        ({"name": "user:a", "topic": "t"}, "intake.sources.0.name"),
        ({"name": "a", "token": "nobody"}, "http.tokens has no token 'nobody'"),
        ({"name": "a", "user": "ann"}, "user 'ann' needs http.proxy"),
        ({"name": "bank", "token": "shop"}, "the name 'bank' stands for two senders of reports"),
        ({"name": "flagged", "token": "shop"}, "the name 'flagged' stands for two senders of reports"),
        ({"name": "shop", "topic": "t"}, "the name 'shop' stands for two senders of reports"),
        ({"name": "Induced", "topic": "t"}, "the name 'Induced' is reserved"),
        ({"name": "a", "topic": "induced"}, "topic: the name 'induced' is reserved"),
        ({"name": "a", "topic": "erratad.events"}, "erratad writes to topic 'erratad.events'"),
        ({"name": "a", "topic": "t", "max_bytes_per_day": 0}, "max_bytes_per_day"),
    ],
)
def test_senders_that_could_be_mixed_up_are_refused(source: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError) as refused:
        _config([source])
    assert named in str(refused.value) or named in ".".join(map(str, refused.value.errors()[0]["loc"]))


def test_two_sources_have_neither_one_name_nor_one_sender() -> None:
    with pytest.raises(ValidationError, match="the name 'a' stands for two senders"):
        _config([{"name": "a", "topic": "t"}, {"name": "a", "token": "shop"}])
    with pytest.raises(ValidationError, match="topic 't' belongs to two sources"):
        _config([{"name": "a", "topic": "t"}, {"name": "b", "topic": "t"}])


@pytest.mark.parametrize("name", ["http", "import", "induced", "unknown", "Import"])
def test_no_token_has_a_name_of_the_daemon(name: str) -> None:
    with pytest.raises(ValidationError, match=f"http.tokens: the name '{name}' is reserved"):
        _config([], tokens=[{"name": name, "role": "reporter", "token_env": "T"}])


def test_a_topic_is_a_source_only_with_kafka() -> None:
    values = {"model": {"path": "x"}, "intake": {"sources": [{"name": "a", "topic": "t"}]}}
    with pytest.raises(ValidationError, match=r"topic .t. needs intake\.kafka"):
        Config.model_validate(values)
