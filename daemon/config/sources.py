"""Who sends reports: principals, their limits, and whether the operator vouches for them.

A principal is what was authenticated: a source of `intake.sources`, else the name of the token, the user that the proxy
named (`user:NAME`), or the Kafka topic. `reporter` in a message is only a claim of its principal.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from daemon.config.intake import IntakeConfig, KafkaConfig, SourceConfig
from daemon.config.web import HttpConfig

RESERVED = frozenset({"http", "import", "trusted-import", "induced", "unknown"})
"""Names of the daemon's own principals and channels. No token, topic or source may have one."""
USER_PREFIX = "user:"
"""Keeps users of the proxy apart: no token, topic or source may have a colon in its name."""

MAX_USER_CHARACTERS = 100
"""Of a longer name of a user, so much is kept, with a hash of the whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one principal may send in 24 hours."""

    reports: int
    size_bytes: int
    """The size of its messages."""
    reports_per_reporter: int


class Sources:
    """The configured sources, and the defaults for all other principals."""

    def __init__(self, intake: IntakeConfig) -> None:
        self._intake = intake
        self._by_name = {source.name: source for source in intake.sources}
        self._by_topic = {source.topic: source.name for source in intake.sources if source.topic is not None}
        self._by_token = {source.token: source.name for source in intake.sources if source.token is not None}
        self._by_user = {source.user: source.name for source in intake.sources if source.user is not None}

    def topics(self, kafka: KafkaConfig) -> tuple[str, ...]:
        """All topics with reports, first the one of `intake.kafka`."""
        return tuple(dict.fromkeys([kafka.topic, *self._by_topic]))

    def of_topic(self, topic: str) -> str:
        """The principal of the messages of a topic."""
        return self._by_topic.get(topic, topic)

    def of_token(self, name: str) -> str:
        """The principal of a caller with the token of this name."""
        return self._by_token.get(name, name)

    def of_user(self, name: str) -> str:
        """The principal of a user whom the proxy signed in."""
        long = hashlib.sha256(name.encode()).hexdigest()[:16] if len(name) > MAX_USER_CHARACTERS else ""
        return self._by_user.get(name, USER_PREFIX + name[:MAX_USER_CHARACTERS] + long)

    @property
    def trusted(self) -> frozenset[str]:
        """The principals for which the operator vouches."""
        return frozenset(source.name for source in self._intake.sources if source.trusted)

    def is_trusted(self, principal: str) -> bool:
        """Whether the operator vouches for the reports of this principal."""
        source = self._by_name.get(principal)
        return source is not None and source.trusted

    def limits(self, principal: str) -> Limits:
        intake, source = self._intake, self._by_name.get(principal)
        common = Limits(
            reports=intake.max_reports_per_day,
            size_bytes=intake.max_bytes_per_day,
            reports_per_reporter=intake.max_reports_per_reporter_per_day,
        )
        if source is None:
            return common
        return Limits(
            reports=source.max_reports_per_day or common.reports,
            size_bytes=source.max_bytes_per_day or common.size_bytes,
            reports_per_reporter=source.max_reports_per_reporter_per_day or common.reports_per_reporter,
        )


def problems(intake: IntakeConfig, http: HttpConfig) -> Iterator[str]:
    """What would make two senders one principal, or a sender one of the daemon's own."""
    tokens = [token.name for token in http.all_tokens]
    for source in intake.sources:
        yield from _unknown_sender(source, tokens, has_kafka=intake.kafka is not None, has_proxy=http.proxy is not None)
    for kind in ("topic", "token", "user"):
        for sender in _twice([getattr(source, kind) for source in intake.sources if getattr(source, kind)]):
            yield f"intake.sources: {kind} {sender!r} belongs to two sources"
    listed = {(kind, getattr(source, kind)) for kind in ("topic", "token") for source in intake.sources}
    topics = () if intake.kafka is None else Sources(intake).topics(intake.kafka)
    principals = [
        *(("intake.sources", source.name) for source in intake.sources),
        *(("http.tokens", name) for name in tokens if ("token", name) not in listed),
        *(("intake.kafka.topic", topic) for topic in topics if ("topic", topic) not in listed),
    ]
    yield from _reserved(
        [*principals, *(("http.tokens", name) for name in tokens), *(("topic", one) for one in topics)]
    )
    for name in _twice([name for _, name in principals]):
        where = " and ".join(sorted({place for place, other in principals if other == name}))
        yield f"the name {name!r} stands for two senders of reports ({where}); give one of them another name"
    if intake.kafka is not None:
        for topic in sorted({intake.kafka.dead_letter_topic, intake.kafka.events_topic} & set(topics)):
            yield f"erratad writes to topic {topic!r}, so it cannot be a source of reports"


def _unknown_sender(source: SourceConfig, tokens: list[str], *, has_kafka: bool, has_proxy: bool) -> Iterator[str]:
    at = f"intake.sources {source.name!r}"
    if source.topic is not None and not has_kafka:
        yield f"{at}: topic {source.topic!r} needs intake.kafka"
    if source.token is not None and source.token not in tokens:
        yield f"{at}: http.tokens has no token {source.token!r}"
    if source.user is not None and not has_proxy:
        yield f"{at}: user {source.user!r} needs http.proxy"


def _reserved(names: list[tuple[str, str]]) -> Iterator[str]:
    for place, name in dict.fromkeys(names):
        if name.casefold() in RESERVED:
            yield f"{place}: the name {name!r} is reserved for erratad itself; give another one"


def _twice(names: list[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)
