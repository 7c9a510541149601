"""Votes of reports: whoever writes reports, and the checks that grade them, can neither carry nor veto a run alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.chat.preparation import Preparation
from daemon.config.evaluation import EvaluationConfig, GatePolicy
from daemon.evaluation.gate import Decision, decide
from daemon.evaluation.suites import build_items
from daemon.evaluation.votes import ItemKey, Trust, Voter, Votes
from daemon.labels import Criterion, Suite
from daemon.records import Answer, Run, Source, Split
from daemon.store import Store
from tests.fixtures.config import flagged
from tests.fixtures.measured import Scene, open_run, use
from tests.fixtures.stores import learn
from tests.unit.evaluation.test_gate import CANDIDATE, DRIFT, LIVE, arm, asked, failed, share

Marks = Sequence[tuple[bool, bool]]
"""Of each item: passed by live, passed by the candidate."""
WRONG, FIXED, RIGHT, LOST = (False, False), (False, True), (True, True), (True, False)
GOLDEN = share(38, 40)
ASKED = {"role": "user", "content": "Capital of France?"}


class Reports:
    """Reports of several reporters, and what both arms make of them."""

    def __init__(self) -> None:
        self.answers: tuple[list[Answer], list[Answer]] = ([], [])
        self.voters: dict[ItemKey, Voter] = {}

    def add(
        self,
        marks: Marks,
        *,
        principal: str = "shop",
        reporter: str | None = None,
        cluster: str | None = None,
        suite: Suite = Suite.FLAGGED,
        trusted: bool = False,
    ) -> Reports:
        """Reports of one principal, by one reporter (None: each by another), of one cluster (None: each of another)."""
        for live, candidate in marks:
            number = len(self.voters)
            self.voters[suite, f"report-{number}"] = Voter(
                principal=principal,
                reporter=reporter or f"user-{number}",
                cluster=cluster or f"cluster-{number}",
                trusted=trusted,
            )
            for answers, passed, text in ((self.answers[0], candidate, "new"), (self.answers[1], live, "old")):
                for guided in (True, False):
                    answers.append(
                        Answer(
                            run_id=1,
                            suite=suite,
                            item_id=f"report-{number}",
                            arm="",
                            guided=guided,
                            text=text,
                            passed=passed,
                        )
                    )
        return self

    def decide(
        self, policy: GatePolicy | None = None, *, golden: list[bool] = GOLDEN, configured: Any = None
    ) -> Decision:
        def tasks(passed: list[bool], text: str) -> list[Answer]:
            return [
                found for guided in (True, False) for found in asked(Suite.GOLDEN, passed, guided=guided, text=text)
            ]

        candidate, live = ([*answers, DRIFT] for answers in self.answers)
        return decide(
            arm(CANDIDATE, [*candidate, *tasks(golden, "new")]),
            arm(LIVE, [*live, *tasks(GOLDEN, "old")]),
            policy or GatePolicy(),
            voters=self.voters,
            configured=configured,
        )


def sentence(decision: Decision, criterion: Criterion) -> str:
    return str(decision.figures["criteria"][criterion.value]["sentence"])


# --- nobody carries a run alone ---

BESIDE = [(3, 10), (3, 20), (3, 30), (3, 50), (10, 190)]


@pytest.mark.parametrize(("hostile", "honest"), BESIDE)
def test_hostile_reports_of_one_principal_do_not_carry_an_adapter_that_fixes_no_honest_one(
    hostile: int, honest: int
) -> None:
    reports = Reports().add([WRONG] * honest).add([FIXED] * hostile, principal="hostile")
    decision = reports.decide()
    assert failed(decision) == {Criterion.SHARED_GAIN}
    assert sentence(decision, Criterion.SHARED_GAIN) == (
        "without hostile, the gain is +0 points, +2 needed; "
        "if you vouch for a source, say so in the configuration (intake.sources, trusted)"
    )


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize(("hostile", "honest"), BESIDE)
def test_nor_do_those_of_one_reporter_among_a_principal_s_others(hostile: int, honest: int, trusted: bool) -> None:
    reports = Reports().add([WRONG] * honest, trusted=trusted)
    reports.add([FIXED] * hostile, reporter="hostile", trusted=trusted)
    decision = reports.decide()
    assert failed(decision) == {Criterion.SHARED_GAIN}
    assert "without the reporter with most fixes, the gain is +0 points" in sentence(decision, Criterion.SHARED_GAIN)


def test_many_reporters_of_an_untrusted_principal_are_one_voice() -> None:
    decision = Reports().add([WRONG] * 10).add([FIXED] * 300, principal="crowd").decide()
    assert failed(decision) == {Criterion.SHARED_GAIN}


def test_nearly_a_third_of_the_principals_do_not_carry_a_run_together() -> None:
    reports = Reports()
    for number in range(7):
        reports.add([WRONG] * 10, principal=f"honest-{number}")
    for number in range(3):
        reports.add([FIXED] * 10, principal=f"hostile-{number}")
    assert failed(reports.decide()) == {Criterion.SHARED_GAIN}


def test_a_gain_that_several_share_is_accepted() -> None:
    reports = Reports()
    for number in range(3):
        reports.add([FIXED] * 3 + [WRONG] * 7, principal=f"shop-{number}")
    decision = reports.decide()
    assert decision.accepted
    assert "without shop-0, the gain is +20 points, +2 needed" in decision.reasons


def test_a_backend_with_one_source_and_several_reporters_learns() -> None:
    reports = Reports().add([FIXED] * 6 + [WRONG] * 14)
    decision = reports.decide()
    assert decision.accepted
    assert "without the reporter with most fixes, the gain is +25 points, +2 needed" in decision.reasons


def test_a_source_with_one_reporter_for_everything_learns() -> None:
    assert Reports().add([FIXED] * 6 + [WRONG] * 14, reporter="backend").decide().accepted


def test_hostile_reports_that_stay_unfixed_do_not_stop_a_source_that_the_operator_vouches_for() -> None:
    reports = Reports().add([FIXED] * 10 + [WRONG] * 10, trusted=True).add([WRONG] * 60, principal="hostile")
    decision = reports.decide()
    assert decision.accepted
    assert decision.figures["votes"]["largest"] == {"hostile": 20, "shop": 20}


def test_a_source_with_next_to_no_votes_cannot_object() -> None:
    assert Reports().add([FIXED] * 10 + [WRONG] * 10).add([WRONG] * 3, principal="other").decide().accepted


def test_mistakes_that_erratad_provoked_itself_do_not_speak_against_the_only_source() -> None:
    reports = Reports().add([FIXED] * 10 + [WRONG] * 10, reporter="backend").add([WRONG] * 10, principal="induced")
    decision = reports.decide()
    assert decision.accepted
    assert "no reports of several sources or reporters" in sentence(decision, Criterion.SHARED_GAIN)


# --- one vote per principal and cluster ---


def test_reports_of_one_cluster_are_one_vote() -> None:
    reports = Reports().add([FIXED] * 30, cluster="same").add([WRONG] * 9)
    decision = reports.decide()
    assert Criterion.SIGNIFICANCE in failed(decision)
    assert sentence(decision, Criterion.FIX_GAIN).startswith(
        "passes 1 of 10 votes of 39 held-out and trained items, live 0: +10 points"
    )
    assert sentence(decision, Criterion.SIGNIFICANCE).startswith("1 fixed, 0 broken")


def test_a_cluster_of_two_principals_is_two_votes() -> None:
    votes = Votes(voters={("flagged", name): Voter(principal=name, reporter="r", cluster="c") for name in ("a", "b")})
    assert votes.weights(votes.voters) == {("flagged", "a"): 1.0, ("flagged", "b"): 1.0}


def test_a_vote_is_fixed_if_more_of_its_items_are_fixed_than_broken() -> None:
    reports = Reports()
    for number in range(4):
        reports.add([FIXED, FIXED, LOST, WRONG], cluster=f"mixed-{number}")
    decision = reports.decide()
    assert sentence(decision, Criterion.FIX_GAIN).startswith("passes 2 of 4 votes of 16 held-out and trained")
    assert sentence(decision, Criterion.SIGNIFICANCE).startswith("4 fixed, 0 broken")


def test_repeated_reports_that_live_passes_make_no_room_for_lost_tasks() -> None:
    """The operator's own tasks bound every run, however many reports are beside them."""
    lost = share(34, 40)
    reports = Reports().add([FIXED] * 8, trusted=True)
    reports.add([RIGHT] * 190, principal="hostile")
    assert Criterion.RETENTION in failed(reports.decide(golden=lost))
    many = Reports().add([FIXED] * 8, trusted=True).add([RIGHT] * 190, principal="hostile", cluster="same")
    assert Criterion.NEGATIVE_FLIPS in failed(many.decide(golden=lost))


def test_a_report_with_the_id_of_an_ordinary_task_takes_nothing_from_its_vote() -> None:
    reports = Reports().add([FIXED] * 6 + [WRONG] * 6)
    before = reports.decide().figures["suites"]["golden"]
    reports.voters = {
        key: Voter(principal="shop", reporter="r", cluster="one") for key in [("flagged", "golden-0"), *reports.voters]
    }
    assert reports.decide().figures["suites"]["golden"] == before


def test_the_votes_of_an_untrusted_principal_weigh_at_most_its_share() -> None:
    voters = {
        ("flagged", f"a{number}"): Voter(principal="a", reporter="r", cluster=str(number)) for number in range(30)
    }
    voters |= {
        ("flagged", f"b{number}"): Voter(principal="b", reporter="r", cluster=str(number)) for number in range(6)
    }
    for share_of_all, count in ((0.5, 6), (0.75, 18), (1.0, 30)):
        votes = Votes(voters=voters, max_share=share_of_all, min_others=4)
        assert votes.principals(voters) == pytest.approx({"a": count, "b": 6})
    assert Votes(voters=voters, max_share=0.5, min_others=7).principals(voters) == {"a": 30, "b": 6}
    vouched = {**voters, ("flagged", "a0"): Voter(principal="a", reporter="r", cluster="0", trusted=True)}
    assert Votes(voters=vouched, max_share=0.5, min_others=4).principals(vouched) == {"a": 30, "b": 6}


def test_reports_without_evidence_are_measured_and_not_counted(scene: Scene) -> None:
    run = scene.run()
    known = sorted(item.report_id for item in scene.store.runs.items(run.id) if item.role is Split.TRAIN)[:5]
    scene.trust = Trust(counts=lambda report: report.id in known)
    scene.step()
    verdict = scene.store.runs.verdict(run.id)
    assert verdict is not None
    assert verdict.accepted
    assert verdict.figures["fixes"]["gained"] == known
    assert verdict.figures["without_evidence"] == 5
    assert len(scene.kept(run)["flagged", "aligned-g000001", True]) == 8


def test_many_reports_of_one_principal_do_not_fill_a_suite(sqlite_store: Store, tmp_path: Path) -> None:
    run = open_run(sqlite_store, tmp_path)
    crowd = learn(sqlite_store, *(flagged() for _ in range(30)), principal="crowd")
    shop = learn(sqlite_store, *(flagged() for _ in range(5)), principal="shop")
    use(sqlite_store, run, train=[*crowd, *shop])
    items = build_items(
        sqlite_store,
        run,
        fixed=[],
        limits=EvaluationConfig(max_items_per_suite=12),
        preparation=Preparation(),
        trust=Trust(counts=lambda report: report.id != shop[0]),
    )
    voters = Counter(item.voter.principal for item in items if item.voter is not None)
    assert voters == {"crowd": 8, "shop": 4}


def test_of_several_who_report_an_answer_the_trusted_one_has_the_vote(sqlite_store: Store, tmp_path: Path) -> None:
    run = open_run(sqlite_store, tmp_path)
    [first] = learn(
        sqlite_store, flagged(id="hostile", messages=[ASKED], response="The same.", reason="one"), principal="hostile"
    )
    use(sqlite_store, run, train=[first])
    source = Source(channel="test", principal="shop")
    sqlite_store.reports.add(
        [(flagged(id="honest", messages=[ASKED], response="The same.", reason="two"), source)], reporter_cap=9
    )
    again = replace(run, created_at=run.created_at + timedelta(hours=1))

    def voter(of: Run, trusted: str) -> Voter | None:
        items = build_items(
            sqlite_store,
            of,
            fixed=[],
            limits=EvaluationConfig(),
            preparation=Preparation(),
            trust=Trust(vouched=lambda principal: principal == trusted),
        )
        return items[0].voter

    shop = voter(again, "shop")
    assert shop is not None
    assert (shop.principal, shop.trusted) == ("shop", True)
    for one in (voter(again, "nobody"), voter(run, "shop")):
        assert one is not None
        assert (one.principal, one.trusted) == ("hostile", False)


# --- nobody vetoes a run alone ---


def test_one_lost_report_does_not_veto_a_run_in_which_no_held_out_report_improves() -> None:
    reports = Reports().add([FIXED] * 8 + [WRONG] * 8).add([WRONG] * 5, suite=Suite.HOLDOUT)
    reports.add([LOST], reporter="hostile", suite=Suite.HOLDOUT)
    decision = reports.decide()
    assert decision.accepted
    assert sentence(decision, Criterion.HOLDOUT).endswith(
        "; without one reporter it is +0 points, and one voice rejects nothing"
    )


def test_the_lost_reports_of_one_principal_do_not_veto_a_run() -> None:
    reports = Reports().add([FIXED] * 8 + [WRONG] * 8).add([WRONG] * 8, suite=Suite.HOLDOUT)
    reports.add([FIXED] * 4 + [WRONG] * 4, principal="other")
    reports.add([LOST] * 2, principal="hostile", suite=Suite.HOLDOUT)
    assert Criterion.HOLDOUT not in failed(reports.decide())


def test_held_out_reports_that_several_lose_veto_a_run() -> None:
    reports = Reports().add([FIXED] * 8 + [WRONG] * 8).add([WRONG] * 6 + [LOST] * 2, suite=Suite.HOLDOUT)
    assert failed(reports.decide()) == {Criterion.HOLDOUT}


def test_a_reporter_with_half_of_the_held_out_votes_is_heard() -> None:
    reports = Reports().add([FIXED] * 8 + [WRONG] * 8).add([LOST] * 2, reporter="one", suite=Suite.HOLDOUT)
    reports.add([WRONG] * 2, suite=Suite.HOLDOUT)
    assert failed(reports.decide()) == {Criterion.HOLDOUT}


def test_prompts_that_make_long_answers_are_one_vote_against_the_measurement() -> None:
    reports = Reports().add([FIXED] * 10 + [WRONG] * 10)
    reports.add([WRONG] * 200, principal="hostile", cluster="count to a million")
    for side in reports.answers:
        for number, found in enumerate(side):
            if reports.voters[Suite.FLAGGED, found.item_id].principal == "hostile":
                side[number] = _cut(found)
    assert Criterion.CUT_ANSWERS not in failed(reports.decide())


def test_reports_that_servers_refuse_do_not_make_the_measurement_useless() -> None:
    reports = Reports().add([FIXED] * 10 + [WRONG] * 10)
    unanswered = {
        (Suite.FLAGGED, f"refused-{number}"): Voter(principal="hostile", reporter="r", cluster=str(number))
        for number in range(60)
    }
    reports.voters |= unanswered
    assert Criterion.ITEMS_LEFT not in failed(reports.decide(configured={Suite.FLAGGED: 80}))
    reports.voters |= {
        (Suite.FLAGGED, f"lost-{number}"): Voter(principal="shop", reporter="r", cluster=f"lost-{number}")
        for number in range(30)
    }
    decision = reports.decide(configured={Suite.FLAGGED: 110})
    assert Criterion.ITEMS_LEFT in failed(decision)
    assert "(20 of 100 of flagged)" in sentence(decision, Criterion.ITEMS_LEFT)


def _cut(found: Answer) -> Answer:
    values: Mapping[str, Any] = {name: getattr(found, name) for name in found.__dataclass_fields__}
    return Answer(**{**values, "cut": True})


# --- properties ---

VOTERS = st.builds(
    Voter,
    principal=st.sampled_from("abc"),
    reporter=st.sampled_from("xyz"),
    cluster=st.sampled_from("1234567"),
    trusted=st.just(False),
)
ITEMS = st.lists(st.tuples(VOTERS, st.booleans(), st.booleans()), min_size=1, max_size=30)


def _reported(items: list[tuple[Voter, bool, bool]]) -> Reports:
    reports = Reports()
    for voter, live, candidate in items:
        reports.add([(live, candidate)], principal=voter.principal, reporter=voter.reporter, cluster=voter.cluster)
    return reports


@settings(max_examples=60)
@given(items=ITEMS)
def test_the_weights_of_a_group_make_one_vote_at_most_and_shares_stay_shares(
    items: list[tuple[Voter, bool, bool]],
) -> None:
    reports = _reported(items)
    votes = Votes(voters=reports.voters, max_share=0.5, min_others=1)
    sums: dict[Any, float] = {}
    for item, weight in votes.weights(reports.voters).items():
        sums[votes.group(item)] = sums.get(votes.group(item), 0.0) + weight
    assert all(0 < total <= 1 + 1e-9 for total in sums.values())
    owned = votes.principals(reports.voters)
    if len(owned) > 1:
        assert max(owned.values()) <= sum(owned.values()) / 2 + 1e-9


@settings(max_examples=60)
@given(items=ITEMS, where=st.integers(0))
def test_one_more_report_passed_never_fails_a_criterion(items: list[tuple[Voter, bool, bool]], where: int) -> None:
    fails = [number for number, (_, _, passed) in enumerate(items) if not passed]
    if not fails:
        return
    number = fails[where % len(fails)]
    voter, live, _ = items[number]
    better = [*items[:number], (voter, live, True), *items[number + 1 :]]
    assert failed(_reported(better).decide()) <= failed(_reported(items).decide())
