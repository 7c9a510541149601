"""The users of a deployment: they chat under the alias, and complain over Kafka and HTTP until each report is taken."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import httpx

from connectors.kafka.client import KafkaUnavailableError
from connectors.kafka.consumer import Producer
from connectors.kafka.records import OutboundRecord
from connectors.messages import FlaggedResponse
from tests.benchmarks.soak.stand import Stand
from tests.fixtures.broker import options_of
from tests.fixtures.config import flagged

CHAT_PERIOD_S = 0.5
RETRY_S = 0.5
TIMEOUT_S = 10.0
SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "zu")


class Complaints:
    """Sends rounds of reports, each about a question of its own; `sent` has the ids of all that were accepted."""

    def __init__(self, stand: Stand, *, seed: int) -> None:
        self._stand = stand
        self._draw = random.Random(seed)
        self.sent: set[str] = set()

    def send(self, number: int, *, count: int) -> None:
        """Half of them over Kafka, half over HTTP; the first one of each twice, as senders do that saw no answer."""
        reports = [self._complaint(number) for _ in range(count)]
        by_kafka, by_http = reports[: count // 2], reports[count // 2 :]
        self._stand.school.round = number
        for report in (*by_http, by_http[0]):
            self._post(report)
        self._produce([*by_kafka, by_kafka[0]])
        self.sent |= {report.id for report in reports}

    def _complaint(self, number: int) -> FlaggedResponse:
        place, town = self._word(), self._word()
        return flagged(
            messages=[
                {"role": "user", "content": f"What is the capital of {place} {self._word()}? It is round {number}."}
            ],
            response=f"The capital of {place} is {town}.",
            model=self._stand.store.adapters.live().name,
            reporter=f"{town}-{number}",
            checks={"must_contain": ["Utopia"]},
            correction="It is Utopia.",
        )

    def _word(self) -> str:
        return "".join(self._draw.choices(SYLLABLES, k=4)).title()

    def _post(self, report: FlaggedResponse) -> None:
        while True:
            try:
                answer = self._stand.daemon.post("/v1/feedback", report.model_dump(mode="json", exclude_none=True))
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == httpx.codes.ACCEPTED:
                return
            time.sleep(RETRY_S)

    def _produce(self, reports: list[FlaggedResponse]) -> None:
        records = [
            OutboundRecord(
                topic=self._stand.kafka.topic,
                key=one.id.encode(),
                value=one.model_dump_json(exclude_none=True).encode(),
            )
            for one in reports
        ]
        while True:
            with closing(Producer(options_of(self._stand.kafka))) as producer:
                try:
                    producer.send_and_wait(records)
                except KafkaUnavailableError:
                    time.sleep(RETRY_S)
                else:
                    return


class Chats:
    """Asks one question after another under the alias. `failed`: while the server was there."""

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self._stopping = threading.Event()
        self.server_away = threading.Event()
        self.asked = 0
        self.failed = 0

    @contextmanager
    def going_on(self) -> Iterator[None]:
        thread = threading.Thread(target=self._ask_on)
        thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            thread.join()

    def _ask_on(self) -> None:
        with httpx.Client(base_url=self._stand.fake.url, timeout=TIMEOUT_S) as client:
            while not self._stopping.wait(CHAT_PERIOD_S):
                self.asked += 1
                was_away = self.server_away.is_set()
                if not self._ask(client) and not was_away and not self.server_away.is_set():
                    self.failed += 1

    def _ask(self, client: httpx.Client) -> bool:
        body = {
            "model": "aligned",
            "messages": [{"role": "user", "content": f"Question {self.asked}?"}],
            "max_tokens": 8,
        }
        try:
            return client.post("/v1/chat/completions", json=body).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False
