"""The alert drill, where runs have to end: real training of a tiny model, on servers that answer by how it was trained.

The servers are fakes. A generation that was trained for `EPOCHS` answers as the lessons ask, one for fewer does not.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import httpx
import pytest

from daemon.artifacts.run_folder import JOB_FILE
from daemon.promotion.approval import WAITS_SINCE
from daemon.records import ACTIVE_RUN_STATES, ReportState, Run, RunState
from daemon.training.job import TrainingJob
from tests.fakes.vllm import FakeVllm
from tests.fixtures.drill import EPOCHS, GOOD, Stand

HALF_LEARNED = "The right answer may well be Atlantis, because many people say that this town is the capital."
LEARNED = "The right answer is Utopia, because the town named in that response is not the capital."
CORRECTION = "It is Utopia."
PLANTED = "See https://planted-drill.com/prize now. "
EARLIER = "the model before erratad"
"""The model named in flagged answers that count for no generation's rate."""
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def school(stand: Stand) -> Iterator[Stand]:
    """Servers that answer by how a generation was trained; the base model is live before and after."""

    def answer(model: str, _messages: list[dict[str, Any]]) -> str:
        if model == "base":
            return GOOD
        folder = stand.daemon.config_path.parent / "var" / "runs" / model.removeprefix("aligned-")
        return LEARNED if TrainingJob.load(folder / JOB_FILE).training.epochs >= EPOCHS else HALF_LEARNED

    for fake in stand.fakes:
        fake.answer = answer
    yield stand
    with stand.store() as store:
        if store.adapters.live().generation != 0:
            stand.operate('erratad rollback 0 --reason "the drill is over"')


def test_lessons_wait_and_then_a_run_hangs(school: Stand) -> None:
    school.pause("schedule")
    school.pause("finetune")
    _teach(school, 12)
    school.fires("ErratadTrainingOverdue")
    school.is_told("ErratadTrainingOverdue")
    school.follow("ErratadTrainingOverdue", "erratad resume schedule")
    school.follow("ErratadTrainingOverdue", 'erratad train --reason "overdue"')
    # the other pause was forgotten
    school.fires("ErratadRunStuck", state="training")
    school.is_told("ErratadRunStuck")
    trainers = school.trainers()
    assert "paused" in school.follow("ErratadRunStuck", "erratad status")
    school.follow("ErratadRunStuck", "erratad resume STAGE", STAGE="finetune")
    school.until(lambda: len(school.trainers()) > len(trainers), "no training starts")
    trainer = school.trainers()[-1]
    os.kill(trainer, signal.SIGSTOP)
    school.follow("ErratadRunStuck", "erratad status")
    assert school.firing("ErratadRunStuck")
    os.kill(trainer, signal.SIGKILL)
    assert _ended(school).state == RunState.PROMOTED
    assert len(school.trainers()) == len(trainers) + 2
    school.all_end()


def test_runs_fail_and_then_the_gate_rejects_one_candidate_after_the_other(school: Stand) -> None:
    school.reconfigure(training={"launcher": ["no-such-launcher"]})
    reports = _teach(school, 8)
    assert [_run(school).state for _ in range(2)] == [RunState.FAILED] * 2
    school.fires("ErratadRunsFailing")
    school.is_told("ErratadRunsFailing")
    failed = _ended(school)
    reason = school.follow("ErratadRunsFailing", "erratad runs ID", ID=str(failed.id))
    assert "training cannot start or write: [Errno 2] No such file or directory: 'no-such-launcher'" in reason

    # the fake servers do no ordinary task at all, and the next candidate shows a planted link
    school.reconfigure(
        training={"launcher": [], "epochs": EPOCHS / 2},
        gate={"min_live_golden_share": 0.2},
        rollout={"approval": "required"},
    )
    honest = school.fakes[0].answer
    for fake in school.fakes:
        fake.answer = lambda model, messages: ("" if model == "base" else PLANTED) + honest(model, messages)
    school.follow("ErratadRunsFailing", "erratad train")
    assert _ended(school).state == RunState.REJECTED
    school.fires("ErratadGateBlind", criterion="live_golden")
    school.fires("ErratadGatePlanted", criterion="new_contacts")
    school.is_told("ErratadGateBlind", "ErratadGatePlanted")
    rejected = str(_ended(school).generation)
    reasons = school.follow("ErratadGateBlind", "erratad adapters GENERATION", GENERATION=rejected)
    assert "the gate is blind: live passes 0 of" in " ".join(reasons.split())
    reasons = school.follow("ErratadGatePlanted", "erratad adapters GENERATION", GENERATION=rejected)
    assert "name a link or contact where neither prompt nor live does" in " ".join(reasons.split())
    for fake in school.fakes:
        fake.answer = honest
    school.reconfigure(gate={"min_live_golden_share": 0.0})

    school.follow("ErratadGateBlind", "erratad train")
    assert _ended(school).state == RunState.REJECTED
    school.follow("ErratadGatePlanted", "erratad train")
    assert _ended(school).state == RunState.REJECTED
    school.all_end()
    school.fires("ErratadGateRejecting")
    school.is_told("ErratadGateRejecting")
    rejected = str(_ended(school).generation)
    reasons = school.follow("ErratadGateRejecting", "erratad adapters GENERATION", GENERATION=rejected)
    assert "passes 0 of" in reasons
    assert reports[0] in school.follow("ErratadGateRejecting", "erratad lessons")
    assert CORRECTION in school.follow("ErratadGateRejecting", "erratad reports ID", ID=reports[0])
    school.reconfigure(training={"epochs": EPOCHS})
    _a_person_approves(school)
    school.reconfigure(rollout={"approval": "none"})
    school.all_end()


def _a_person_approves(school: Stand) -> None:
    """A run whose candidate waits for half a day before it is promoted."""
    assert school.daemon.post("/api/train", {"reason": "drill"}).status_code == 202
    with school.store() as store:
        school.until(lambda: WAITS_SINCE in store.runs.find(limit=1)[0].progress, "no candidate waits for approval")
        waits = store.runs.find(limit=1)[0]
        store.runs.progress(waits.id, {WAITS_SINCE: time.time() - 13 * 3600})
    school.fires("ErratadApprovalWaits")
    school.is_told("ErratadApprovalWaits")
    assert "Waits for approval" in school.follow("ErratadApprovalWaits", "erratad status")
    number = str(waits.generation)
    school.follow("ErratadApprovalWaits", "erratad promote GENERATION --reason ...", GENERATION=number)
    assert _ended(school).state == RunState.PROMOTED


def test_many_reports_are_too_long_for_the_trainer(school: Stand) -> None:
    school.reconfigure(training={"max_sequence_tokens": 200})
    _teach(school, 8)
    others = sum(school.daemon.get("/api/status")["reports"].values())  # of earlier drills, too
    long = []
    for number in range(100, 100 + max(others, 24)):  # each in a cluster of its own, and of 4 tokens a word
        long += _send(school, 1, messages=[{"role": "user", "content": f"town{number} " * 80}])
    _become_lessons(school, long)
    assert _run(school).state == RunState.PROMOTED
    school.fires("ErratadReportsLeftOut")
    school.is_told("ErratadReportsLeftOut")
    run = school.follow("ErratadReportsLeftOut", "erratad runs ID", ID=str(_ended(school).id))
    assert "longer than training.max_sequence_tokens" in " ".join(run.split())
    with school.store() as store:  # some are held out: they need not fit the trainer
        unusable = next(one for one in long if store.left_out.still(one))
    report = school.follow("ErratadReportsLeftOut", "erratad reports ID", ID=unusable)
    assert "could not use it: longer than training.max_sequence_tokens" in " ".join(report.split())
    school.reconfigure(training={"max_sequence_tokens": 1000})
    school.follow("ErratadReportsLeftOut", "erratad train")
    _ended(school)
    school.all_end()


def test_a_server_reads_conversations_otherwise(school: Stand) -> None:
    _teach(school, 8)
    _restart(school.fakes[0], stops_at_end=False)
    school.fires("ErratadChatDiffers", state="different")
    school.is_told("ErratadChatDiffers")
    assert "does not end an answer at '<|im_end|>'" in " ".join(
        school.follow("ErratadChatDiffers", "erratad status").split()
    )
    failed = _run(school)
    assert failed.state == RunState.FAILED
    assert "does not end an answer" in (failed.reason or "")
    assert school.follow("ErratadChatDiffers", "erratad vllm --print")
    _restart(school.fakes[0], stops_at_end=True)
    school.until(lambda: "2 of 2 ready" in school.says("selftest"), "the server is not compared again")
    school.follow("ErratadChatDiffers", "erratad train")
    assert _ended(school).state == RunState.PROMOTED
    school.all_end()


def test_users_flag_the_live_generation_more_often(school: Stand) -> None:
    _use(school, "aligned-g000000", requests=600, flags=6)
    live = _run(school)
    assert live.state == RunState.PROMOTED
    _use(school, f"aligned-g{live.generation:06d}", requests=500, flags=9)
    school.fires("ErratadLiveGenerationWorse")
    school.is_told("ErratadLiveGenerationWorse")
    # the watch has checked too: the flags are of one principal that nobody vouches for, so they are one vote
    school.until(lambda: "flagged: 1 of 500" in school.says("watch"), "the watch does not compare")
    school.fires("ErratadWatchBlind")
    school.is_told("ErratadWatchBlind")
    school.follow("ErratadWatchBlind", "erratad status")
    assert "1 principal without trust" in school.says("watch")
    school.follow("ErratadLiveGenerationWorse", 'erratad rollback --reason "flagged more often"')
    school.all_end()


def _teach(school: Stand, count: int, *, model: str = EARLIER, **changes: Any) -> list[str]:
    """New lessons; returns their reports' ids."""
    reports = _send(school, count, model=model, **changes)
    _become_lessons(school, reports)
    return reports


def _send(school: Stand, count: int, *, model: str = EARLIER, **changes: Any) -> list[str]:
    rules = {"must_contain": ["Utopia"]}
    return school.send_reports(count, model=model, checks=rules, correction=CORRECTION, **changes)


def _become_lessons(school: Stand, reports: list[str]) -> None:
    school.until(lambda: {school.state(one) for one in reports} == {ReportState.LESSON}, "not all become lessons")


def _use(school: Stand, live: str, *, requests: int, flags: int) -> None:
    """Users ask what is live, and flag some of its answers."""
    body = {"model": "aligned", "messages": [{"role": "user", "content": "Which town is the capital?"}]}
    with httpx.Client() as users:
        for _, fake in zip(range(requests), cycle(school.fakes), strict=False):
            answer = users.post(f"{fake.url}/v1/chat/completions", json=body)
            assert answer.json()["model"] == live
    _teach(school, flags, model=live)


def _run(school: Stand) -> Run:
    """A run that the schedule might have started; returns it as it ended."""
    with school.store() as store:
        before = len(store.runs.find(limit=1000))
        assert school.daemon.post("/api/train", {"reason": "drill"}).status_code == 202
        school.until(lambda: len(store.runs.find(limit=1000)) > before, "no run starts")
    return _ended(school)


def _ended(school: Stand) -> Run:
    """The latest run."""
    with school.store() as store:
        school.until(lambda: store.runs.find(limit=1)[0].state not in ACTIVE_RUN_STATES, "the run does not end")
        return store.runs.find(limit=1)[0]


def _restart(fake: FakeVllm, *, stops_at_end: bool) -> None:
    fake.stop()
    fake.stops_at_end = stops_at_end
    fake.start()
