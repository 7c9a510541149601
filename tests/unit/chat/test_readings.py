"""Each conversation of a run is read once, by one child per step at most."""

from __future__ import annotations

from daemon.chat.reader import Question
from daemon.chat.readings import NO_LIMIT, Asked, Limit, Readings, Refusal, served_limit
from daemon.config.serving import ServingConfig
from daemon.labels import LeftOut
from tests.fixtures.life import life
from tests.fixtures.training import ReaderByWords

TRAIN = Limit(5, LeftOut.TOO_LONG)
SERVE = Limit(3, LeftOut.TOO_LONG_TO_SERVE)


def asked(text: str, limit: Limit = TRAIN) -> Asked:
    return Asked(Question(messages=({"role": "user", "content": text},)), limit)


def test_a_conversation_is_read_once_per_run_and_the_child_starts_only_for_new_ones() -> None:
    reader = ReaderByWords()
    readings = Readings(reader)
    for run_id, started, read in ((1, 1, 2), (1, 1, 2), (2, 2, 4)):
        with readings.of_run(run_id, life()) as session:
            assert not session.read([asked("one"), asked("two"), asked("one")])
            assert not session.read([asked("two")])
        assert (reader.started, len(reader.asked)) == (started, read)


def test_nothing_to_read_starts_no_child() -> None:
    reader = ReaderByWords()
    with Readings(reader).of_run(1, life()) as session:
        assert not session.read([])
    assert reader.started == 0


def test_a_refusal_names_the_limit_that_was_passed() -> None:
    with Readings(ReaderByWords({"odd": LeftOut.TEMPLATE_REFUSES})).of_run(1, life()) as session:
        long, odd = "a b c d", asked("odd")
        assert session.refusal([odd]) is None  # not read yet
        assert session.read([asked(long), asked(long, SERVE), odd])
        assert session.refusal([asked(long)]) is None
        assert session.refusal([asked(long), asked(long, SERVE)]) == Refusal(LeftOut.TOO_LONG_TO_SERVE, "4 tokens")
        assert session.refusal([odd]) == Refusal(LeftOut.TEMPLATE_REFUSES, "it says odd")
        assert not session.read([odd])  # known already


def test_only_servers_that_erratad_starts_have_a_known_context() -> None:
    attached = ServingConfig(mode="attached", urls=["http://vllm"], admin_token_env="TOKEN")
    assert served_limit(ServingConfig(max_model_len=512)).tokens == 511
    assert served_limit(attached).tokens == NO_LIMIT
