"""Liked answers in the gate: which are asked again, what passes, and who can reject a candidate by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from connectors.messages import FlaggedResponse
from daemon.config.evaluation import EvaluationConfig, GatePolicy
from daemon.evaluation.gate import decide
from daemon.evaluation.praised import praised_items
from daemon.evaluation.votes import ItemKey, Trust, Voter
from daemon.labels import Criterion, Suite
from daemon.records import Run, Source, utcnow
from daemon.store import Added, Store
from tests.fixtures.config import flagged
from tests.fixtures.measured import BASE, CANDIDATE, GUIDANCE, Scene, answers
from tests.fixtures.stores import add, quarantine
from tests.unit.evaluation.test_gate import BETTER, LIVE_FLAGGED, LIVE_GOLDEN, LIVE_HOLDOUT, arm, asked, measured

TOPICS = ("rivers", "bridges", "violins", "glaciers", "orchids", "comets")


def liked(topic: str, **changes: Any) -> FlaggedResponse:
    values = {
        "id": f"liked-{topic}",
        "messages": [{"role": "user", "content": f"Tell me two things about {topic}, please."}],
        "response": f"Most {topic} are old, and many people travel far to look at {topic} in summer.",
        "rating": "up",
        **changes,
    }
    return flagged(**values)


def keep(store: Store, *messages: FlaggedResponse, principal: str = "chat") -> None:
    source = Source(channel="http", principal=principal)
    assert store.reports.add([(one, source) for one in messages]) == [Added.KEPT] * len(messages)


def asked_again(store: Store, limit: int = 10) -> list[str]:
    return [one.id for one in store.signals.praised(limit=limit, before=utcnow())]


def test_the_newest_of_each_principal_are_asked_in_turn(store: Store) -> None:
    keep(store, *(liked(topic) for topic in TOPICS[:4]), principal="loud")
    keep(store, liked("orchids"), principal="quiet")
    first, second = asked_again(store, limit=2)
    assert {first.removeprefix("liked-") in TOPICS[:4], second} == {True, "liked-orchids"}
    assert len(asked_again(store)) == 5


def test_a_thumb_down_wins_whoever_sent_it_and_whenever_unless_nobody_may_believe_it(store: Store) -> None:
    keep(store, liked("rivers"), liked("bridges"), liked("violins"))
    before = utcnow()
    down = {topic: liked(topic, id=f"down-{topic}", rating="down") for topic in ("rivers", "bridges")}
    assert add(store, *down.values()) == [Added.STORED, Added.STORED]
    quarantine(store, "down-bridges")
    assert set(asked_again(store)) == {"liked-bridges", "liked-violins"}
    assert store.signals.praised(limit=10, before=before.replace(year=2020)) == []


def test_a_liked_answer_is_compared_with_sound_ones(sqlite_store: Store, scene: Scene) -> None:
    keep(sqlite_store, liked("rivers", reporter="ada"), principal="vouched")
    keep(sqlite_store, liked("comets", response=" "), principal="chat")
    scene.store = sqlite_store
    run = scene.run()
    trust = Trust(vouched=lambda principal: principal == "vouched")
    [item] = items_of(scene, run, trust)
    assert (item.suite, item.id, item.bad) == (Suite.PRAISED, "liked-rivers", None)
    assert item.voter == Voter(principal="vouched", reporter="ada", cluster="liked liked-rivers", trusted=True)
    for sound in (item.good or "", "Other rivers are short, and people like to swim in rivers when it is warm."):
        assert item.is_sound(sound)
    german = "Die meisten Flüsse sind alt, und viele Menschen sehen sie sich gerne an, wenn es im Sommer warm ist."
    for broken in ("", "I cannot help with that.", "no " * 40, german):
        assert not item.is_sound(broken), broken


def items_of(scene: Scene, run: Run, trust: Trust) -> Sequence[Any]:
    config = EvaluationConfig.model_validate(scene.config)
    return praised_items(scene.store, run, config=config, preparation=scene.fleet.preparation, trust=trust)


def test_a_candidate_that_breaks_what_users_liked_is_rejected(scene: Scene) -> None:
    for principal, topics in (("a", TOPICS[:3]), ("b", TOPICS[3:])):
        keep(scene.store, *(liked(topic) for topic in topics), principal=principal)
    asked_for: list[str] = []

    def answering(model: str, messages: list[dict[str, Any]]) -> str:
        question = messages[-1]["content"]
        if "Tell me two things" not in question:
            return answers(model, messages)
        asked_for.append(messages[0]["content"])
        topic = question.split()[5].strip(",")
        return "I cannot help with that." if model == CANDIDATE else f"Many {topic} are nice."

    scene.fake.answer = answering
    run = scene.run()
    sentence = scene.step().sentence
    assert "passes 0 of 6 questions whose answers users liked, live 6: -100 points" in sentence
    assert set(asked_for) == {GUIDANCE}
    assert len(asked_for) == 12
    verdict = scene.store.runs.verdict(run.id)
    assert verdict is not None
    assert not verdict.figures["criteria"][Criterion.PRAISED]["holds"]
    assert {one.passed for one in scene.kept(run)[Suite.PRAISED, CANDIDATE, True]} == {False}


def holds(losses: dict[str, int], of: int = 4, policy: GatePolicy | None = None) -> bool:
    """Whether the criterion holds if so many of each principal's liked answers are lost."""
    live = measured(flagged=LIVE_FLAGGED, holdout=LIVE_HOLDOUT, golden=LIVE_GOLDEN)
    candidate = measured(**BETTER)
    voters: dict[ItemKey, Voter] = {}
    passed: list[bool] = []
    for principal, lost in losses.items():
        for number in range(of):
            key = (Suite.PRAISED.value, f"{Suite.PRAISED}-{len(passed)}")
            voters[key] = Voter(principal=principal, reporter=f"r{number}", cluster=str(len(passed)))
            passed.append(number >= lost)
    live += asked(Suite.PRAISED, [True] * len(passed))
    candidate += asked(Suite.PRAISED, passed)
    decision = decide(arm(CANDIDATE, candidate), arm(BASE, live), policy or GatePolicy(), voters=voters)
    return all(finding.criterion is not Criterion.PRAISED for finding in decision.failed)


@pytest.mark.parametrize(
    ("losses", "held"),
    [
        ({}, True),
        ({"a": 0, "b": 0}, True),
        ({"a": 4, "b": 0, "c": 0}, True),
        ({"a": 2, "b": 2, "c": 2}, False),
        ({"a": 4}, False),
    ],
)
def test_one_of_several_senders_rejects_nothing(losses: dict[str, int], *, held: bool) -> None:
    assert holds(losses) is held


def test_liked_answers_can_be_switched_off(scene: Scene) -> None:
    keep(scene.store, liked("rivers"))
    scene.config["max_praised_items"] = 0
    run = scene.run()
    scene.step()
    assert (Suite.PRAISED, CANDIDATE, True) not in scene.kept(run)
