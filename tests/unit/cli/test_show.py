"""One report, run or generation in full."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from daemon.categories import Kind
from daemon.labels import LeftOut
from daemon.left_out import LeftOutBy, LeftOutReport
from daemon.parts import Analysis
from daemon.records import Source, utcnow
from daemon.store import schema
from daemon.store.rows import history
from tests.fixtures.cli import Command
from tests.fixtures.config import flagged
from tests.fixtures.learned import Learned, probed
from tests.fixtures.stores import add
from tests.unit.cli.conftest import BOTH_WAYS

pytestmark = BOTH_WAYS


def test_one_report_is_told_from_message_to_fix(erratad: Command, learned: Learned) -> None:
    told = erratad("reports", learned.report_id).stdout
    parts = ("What is the capital", "The capital is town", "It is wrong.", "aligned-g000001 (live)", "before", "after")
    assert "grade: claimed\ntrain on the analysis: no, it waits for evidence that the model gave this answer" in told
    positions = [told.index(part) for part in parts]
    assert positions == sorted(positions)
    assert "aligned-g000000: fails, margin -0.500" in told
    assert "aligned-g000001: passes, margin 1.500" in told


def test_a_report_that_can_never_be_trained_on_says_so(erratad: Command, learned: Learned) -> None:
    parts = ["What is this?", {"type": "image_url", "image_url": {"url": "http://example.org/a.png"}}]
    message = flagged(messages=[{"role": "user", "content": parts}], response=None, reason=None)
    add(learned.store, message)
    told = erratad("reports", message.id).stdout
    assert "not trainable here: message 1 holds an image" in told
    assert "(the answer is empty)" in told
    assert "no reason was given" in told


def test_a_report_and_a_run_tell_what_was_left_out(erratad: Command, learned: Learned) -> None:
    left_out = LeftOutReport(
        run_id=learned.run_id,
        report_id=learned.report_id,
        stage=LeftOutBy.EVALUATION,
        reason=LeftOut.TOO_LONG_TO_SERVE,
        detail="900 tokens, at most 512 fit",
    )
    learned.store.left_out.add([left_out])
    said = "run 1 could not measure it: longer than serving.max_model_len (900 tokens, at most 512 fit)"
    assert f"Left out\n    {said}" in erratad("reports", learned.report_id).stdout
    assert f"Left out 1 reports\n    {learned.report_id}: {said}" in erratad("runs", "1").stdout
    for arguments in (("reports", learned.report_id), ("adapters", "1")):
        [shown] = json.loads(erratad(*arguments, "--json").stdout)["left_out"]
        assert (shown["stage"], shown["reason"]) == ("evaluation", "too_long_to_serve")


def test_a_report_is_told_with_the_other_reports_of_its_answer(erratad: Command, learned: Learned) -> None:
    first = flagged(reporter="ann", checks={"must_contain": ["Perth"]})
    same = {"messages": first.messages, "response": first.response, "checks": {"must_not_contain": ["Perth", "town"]}}
    bob = flagged(**same, reporter="bob", reason="Wrong city.", correction="Canberra.")
    cid = flagged(**same, reporter="cid", reason="")
    add(learned.store, first, bob, cid)
    told = erratad("reports", first.id).stdout
    assert (
        f"Report {bob.id} of the same answer, by bob of test\n    Wrong city.\n    expected answer: Canberra." in told
    )
    assert f"Report {cid.id} of the same answer, by cid of test\n    no reason was given" in told
    assert "The correction that counts\n    by bob of test" in told
    assert f"{first.id}, by ann of test: not used: must contain 'Perth'" in told
    shown = json.loads(erratad("reports", first.id, "--json").stdout)["same_answer"]
    assert [one["reporter"] for one in shown["others"]] == ["bob", "cid"]


def test_a_report_names_its_principal_and_the_id_as_sent(erratad: Command, learned: Learned) -> None:
    first, second = flagged(id="same"), flagged(id="same", reporter="eve")
    for principal, message in (("shop", first), ("bank", second)):
        learned.store.reports.add([(message, Source(channel="http", principal=principal))])
    told = erratad("reports", "same@bank").stdout
    assert "by eve of bank over http" in told
    assert "sent under the id same, which another sender had used before" in told
    assert "sent under" not in erratad("reports", "same").stdout
    found = json.loads(erratad("reports", "--principal", "bank", "--json").stdout)
    assert [(one["id"], one["sent_id"], one["principal"]) for one in found] == [("same@bank", "same", "bank")]
    assert json.loads(erratad("reports", "--reporter", "nobody", "--json").stdout) == []


def test_one_generation_is_told_with_lineage_verdict_and_scores(erratad: Command, learned: Learned) -> None:
    for arguments in (("adapters", "1"), ("runs", str(learned.run_id))):
        told = erratad(*arguments).stdout
        assert "aligned-g000001: live" in told
        assert f"Trained on 1 reports\n    {learned.report_id}" in told
        assert "Verdict: accepted\n    a reason" in told
        assert told.rstrip().splitlines()[-1].split() == ["flagged", "with", "1", "0", "1"]


def test_a_generation_is_told_with_the_strengths_that_were_measured(erratad: Command, learned: Learned) -> None:
    tried = {"accepted": True, "gain": 0.5, "kl_to_base": 0.25, "reasons": []}
    weaker = {"strength": 0.75, "accepted": False, "gain": 0.1, "kl_to_base": None, "reasons": ["too little"]}
    figures = {"strength": 1.0, "strengths": [{"strength": 1.0, **tried}, weaker]}
    with learned.store.engine.begin() as connection:
        connection.execute(schema.verdicts.update().values(figures=figures))
    told = erratad("adapters", "1").stdout
    assert "strength 1, chosen: gain 0.5, 0.250 nats per token from the base model; passes" in told
    assert "strength 0.75: gain 0.1; fails: too little" in told


def test_a_generation_is_told_with_what_it_did_to_probes(erratad: Command, learned: Learned) -> None:
    probed(learned)
    told = [line.split() for line in erratad("adapters", "1").stdout.splitlines()]
    assert ["over-refusal", "with", "1", "1", "0"] in told
    assert ["attacks", "with", "1", "0", "1"] in told


@pytest.mark.parametrize("arguments", [("reports", "no-such-id"), ("runs", "7"), ("adapters", "7")])
def test_what_does_not_exist_exits_with_1(arguments: tuple[str, ...], erratad: Command) -> None:
    done = erratad(*arguments)
    assert done.exit_code == 1
    assert done.stderr.startswith("erratad: no ")


def test_a_report_and_its_generation_tell_all_analyses_and_who_wrote_them(erratad: Command, learned: Learned) -> None:
    [held] = learned.store.anew.claim(owner="w", limit=9, lease_s=60, live=1)
    now = Analysis(text="It names no river.", analyst="self:g1", template="v1", at=utcnow(), generation=1)
    past = tuple(replace(one, current=False) for one in history(held.lesson))
    learned.store.anew.complete(held, replace(held.lesson, analysis=now.text, generation=1, analyses=(*past, now)))
    told = erratad("reports", learned.report_id).stdout
    assert "Earlier analysis, not a target any more: by self (template v1)" in told
    assert "Analysis by generation 1 (self:g1) (template v1)" in told
    assert told.index("It is wrong.") < told.index("It names no river.")
    shown = json.loads(erratad("reports", learned.report_id, "--json").stdout)["analyses"]
    assert [(one["text"], one["generation"], one["current"]) for one in shown] == [
        ("It is wrong.", None, False),
        ("It names no river.", 1, True),
    ]
    assert "Analyses by\n    self: 1" in erratad("adapters", "1").stdout
    assert json.loads(erratad("adapters", "1", "--json").stdout)["analyses_by"] == {"self": 1}


def test_a_guessed_kind_and_the_users_next_message_are_told(erratad: Command, learned: Learned) -> None:
    message = flagged(category=None, reason="", follow_up="No, the river.")
    add(learned.store, message)
    assert "unknown, severity" in erratad("reports", message.id).stdout
    [claim] = learned.store.reports.claim(owner="w", limit=1, lease_s=60)
    learned.store.reports.guess(claim, Kind.WRONG_FACT, by="self:base")
    told = erratad("reports", message.id).stdout
    assert "wrong-fact (guessed), severity" in told
    assert "The user's next message\n    No, the river." in told
    assert "wrong-fact (guessed)" in erratad("reports").stdout
