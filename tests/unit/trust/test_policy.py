"""What a report may be used for, by its evidence, its source and its review."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from daemon.config.trust import TrustConfig
from daemon.labels import GROUND_TEXT, Grade, Ground
from daemon.records import TEMPLATE_ANALYST, CorrectionSource, Evidence, Lesson, Report, ReportState, Source, utcnow
from daemon.trust.corroboration import UNSUPPORTED, Corroboration
from daemon.trust.policy import Models, Policy, grade, is_unexplained
from tests.fixtures.config import flagged
from tests.fixtures.stores import lesson

NOW = utcnow()
RIGHT = "The capital is Canberra."
ALL = Corroboration(mistake=True, correction=True)
QUESTION = [{"role": "user", "content": "What is the capital of Australia?"}]


def report(evidence: Evidence = Evidence.CLAIMED, principal: str = "someone", **own: Any) -> Report:
    values = {"messages": QUESTION, "response": "It is Sydney.", "correction": RIGHT, **own}
    return Report(
        id="r",
        state=ReportState.LESSON,
        flagged=flagged(id="r", **values),
        source=Source(channel="http", principal=principal),
        received_at=NOW,
        updated_at=NOW,
        evidence=evidence,
    )


def corrected(**changes: Any) -> Lesson:
    return lesson("r", **{"correction": RIGHT, "correction_source": CorrectionSource.USER, **changes})


def policy(**config: Any) -> Policy:
    return Policy(TrustConfig.model_validate(config), trusted=["vouched"])


def used(rules: Policy, one: Report, told: Lesson, support: Corroboration = UNSUPPORTED) -> tuple[bool, bool, Ground]:
    """Whether analysis and correction train, and the ground of the decision on the correction."""
    permitted = rules.decide(one, told, support)
    return bool(permitted.analysis), permitted.usable.correction is not None, permitted.correction.ground


def test_a_claim_alone_is_analysed_and_trains_nothing() -> None:
    rules, one = policy(), report()
    assert rules.may_analyse(one)
    assert used(rules, one, corrected()) == (False, False, Ground.NEEDS_EVIDENCE)
    assert not rules.counts_in_gate(one)


@pytest.mark.parametrize("evidence", [Evidence.REPRODUCED, Evidence.VERIFIED])
def test_evidence_trains_the_analysis_and_the_correction_waits_for_a_confirmation(evidence: Evidence) -> None:
    assert used(policy(), report(evidence), corrected()) == (True, False, Ground.NEEDS_CONFIRMATION)
    assert policy().counts_in_gate(report(evidence))


@pytest.mark.parametrize(
    ("support", "changes"),
    [
        (ALL, {}),
        (UNSUPPORTED, {"judged_better": True}),
        (UNSUPPORTED, {"correction_source": CorrectionSource.ANALYST}),
    ],
)
def test_evidence_and_a_confirmation_train_the_correction(support: Corroboration, changes: dict[str, Any]) -> None:
    assert used(policy(), report(Evidence.VERIFIED), corrected(**changes), support) == (True, True, Ground.CONFIRMED)


@pytest.mark.parametrize(
    "changes", [{"judged_better": False}, {"judged_better": None}, {"correction_source": CorrectionSource.GUIDED}]
)
def test_a_judge_who_does_not_prefer_it_and_the_model_itself_confirm_nothing(changes: dict[str, Any]) -> None:
    told = corrected(**changes)
    assert used(policy(), report(Evidence.VERIFIED), told) == (True, False, Ground.NEEDS_CONFIRMATION)


@pytest.mark.parametrize(
    ("rules", "one", "told", "expected"),
    [
        (policy(), report(), corrected(), True),
        (policy(), report(principal="vouched"), corrected(), True),
        (policy(), report(), lesson("r"), False),
        (policy(), report(), corrected(correction_source=CorrectionSource.ANALYST), False),
        (policy(confirm_corrections="never"), report(), corrected(), False),
        (policy(confirm_corrections="untrusted"), report(principal="vouched"), corrected(), False),
        (policy(train_correction="reviewed"), report(), corrected(), False),
    ],
)
def test_a_judge_is_needed_where_nobody_else_stands_behind_a_correction(
    rules: Policy, one: Report, told: Lesson, expected: bool
) -> None:
    assert rules.needs_confirmation(one, told) is expected


def test_corroboration_trains_the_analysis_but_shows_not_that_the_model_gave_the_answer() -> None:
    assert used(policy(), report(), corrected(), ALL) == (True, False, Ground.NEEDS_EVIDENCE)
    assert policy().counts_in_gate(report(), None, ALL)


def test_a_review_suffices_for_all() -> None:
    told = corrected(reviewed_by="ann", reviewed_at=NOW)
    assert used(policy(), report(), told) == (True, True, Ground.REVIEWED)
    assert grade(report(), told) is Grade.REVIEWED


def test_a_trusted_source_skips_the_evidence_and_not_the_confirmation() -> None:
    one = report(principal="vouched")
    assert used(policy(), one, corrected()) == (True, False, Ground.NEEDS_CONFIRMATION)
    assert used(policy(), one, corrected(), ALL) == (True, True, Ground.CONFIRMED)
    assert policy().counts_in_gate(one).ground is Ground.TRUSTED_SOURCE
    assert grade(one) is Grade.CLAIMED


@pytest.mark.parametrize(
    ("model", "counts"),
    [
        ("aligned", True),
        ("base", True),
        ("aligned-g000017", True),
        ("aligned-g000017-s75", True),
        ("gpt-9", False),
        ("aligned-large", False),
        ("aligned-gpt", False),
    ],
)
def test_a_trusted_source_skips_the_evidence_for_the_model_served_here_only(model: str, counts: bool) -> None:
    rules = Policy(TrustConfig(), trusted=["vouched"], models=Models(alias="aligned", base="base"))
    one = report(principal="vouched", model=model)
    assert bool(rules.counts_in_gate(one)) is counts
    assert bool(rules.trains_analysis(one, corrected())) is counts
    if not counts:
        assert rules.counts_in_gate(one).detail == f"it names the model {model!r}, not served here"
    assert rules.counts_in_gate(report(Evidence.REPRODUCED, principal="vouched", model=model))
    assert rules.counts_in_gate(report(principal="trusted-import", model=model))


def test_with_the_second_key_a_trusted_source_skips_the_confirmation_too() -> None:
    rules = policy(confirm_corrections="untrusted")
    assert used(rules, report(principal="vouched"), corrected()) == (True, True, Ground.TRUSTED_SOURCE)
    assert used(rules, report(Evidence.VERIFIED), corrected()) == (True, False, Ground.NEEDS_CONFIRMATION)


def test_a_trusted_report_of_the_same_answer_vouches_for_the_answer_and_not_for_anothers_correction() -> None:
    rules = policy(confirm_corrections="untrusted")
    other = replace(report(principal="vouched", correction=None).parts[0], report_id="r2")
    one = replace(report(), others=(other,))
    assert used(rules, one, corrected()) == (True, False, Ground.NEEDS_CONFIRMATION)
    own = replace(one, others=(replace(other, correction=RIGHT),))
    assert used(rules, own, corrected()) == (True, True, Ground.TRUSTED_SOURCE)


def test_a_reviewer_or_a_source_that_needs_no_confirmation_vouches_for_what_a_teacher_is_made_of() -> None:
    rules = policy(confirm_corrections="untrusted")
    assert rules.vouches(report(principal="vouched"), corrected())
    assert not rules.vouches(report(Evidence.VERIFIED), corrected())
    assert not policy().vouches(report(principal="vouched"), corrected())
    assert policy().vouches(report(), corrected(reviewed_by="ann", reviewed_at=NOW))
    assert policy().vouches(report(principal="induced"), corrected())
    contradicted = report(Evidence.CONTRADICTED, principal="vouched")
    assert not rules.vouches(contradicted, corrected())
    other = replace(report(principal="vouched").parts[0], report_id="r2")
    assert not rules.vouches(replace(report(), others=(other,)), corrected())  # another's rules and span


@pytest.mark.parametrize("principal", ["induced", "trusted-import"])
def test_rules_and_corrections_of_the_operator_need_no_confirmation(principal: str) -> None:
    assert used(policy(), report(principal=principal), corrected()) == (True, True, Ground.TRUSTED_SOURCE)


def test_an_untrusted_import_is_a_claim() -> None:
    assert used(policy(), report(principal="import"), corrected()) == (False, False, Ground.NEEDS_EVIDENCE)


def test_no_grade_makes_bad_content_good() -> None:
    bad = "Log in at https://evil.example/login with your PIN."
    told = corrected(correction=bad, reviewed_by="ann", reviewed_at=NOW)
    assert used(policy(), report(Evidence.VERIFIED, correction=bad), told, ALL) == (True, False, Ground.UNCLEAN)
    said = corrected(analysis=f"It is wrong. {bad}")
    assert used(policy(), report(Evidence.VERIFIED), said, ALL)[0] is False


def test_only_reviewed_corrections_train_if_the_operator_wants_it() -> None:
    rules = policy(train_correction="reviewed")
    assert used(rules, report(Evidence.VERIFIED, principal="vouched"), corrected(), ALL) == (
        True,
        False,
        Ground.NEEDS_REVIEW,
    )


def test_without_confirmations_evidence_is_enough() -> None:
    rules = policy(confirm_corrections="never", train_correction="claimed", train_analysis="claimed")
    assert used(rules, report(), corrected()) == (True, True, Ground.EVIDENCE)


def test_an_operator_may_ask_for_more_before_the_analysis() -> None:
    rules = policy(analyse="verified")
    assert rules.may_analyse(report(Evidence.REPRODUCED)).ground is Ground.NEEDS_EVIDENCE
    assert rules.may_analyse(report(Evidence.VERIFIED))
    assert rules.may_analyse(report(principal="vouched"))


def test_what_is_missing_is_said_with_the_finding_of_the_last_look() -> None:
    one = replace(report(), evidence_detail="0 of 3 new answers make the mistake")
    sentence = policy().trains_analysis(one, corrected()).sentence
    assert sentence == "it waits for evidence that the model gave this answer: 0 of 3 new answers make the mistake"


def test_a_lesson_without_a_correction_says_so() -> None:
    told = corrected(correction=None, correction_source=None)
    assert used(policy(), report(Evidence.VERIFIED), told) == (True, False, Ground.NO_CORRECTION)


def test_every_ground_has_its_words() -> None:
    assert set(GROUND_TEXT) == set(Ground)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"train_correction": "corroborated"}, "confirm_corrections"),
        ({"gate": "contradicted"}, "never used"),
        ({"analyse": "reviewed"}, "known only after the analysis"),
        ({"gate": "proven"}, "'claimed', 'reproduced', 'verified', 'corroborated' or 'reviewed'"),
        ({"corroboration": {"principals": 1}}, "greater than or equal to 2"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_reason(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        policy(**config)


def test_an_answer_that_the_server_contradicts_is_of_no_use_unless_others_report_it_or_a_person_approves_it() -> None:
    rules, one = policy(), report(Evidence.CONTRADICTED, principal="vouched")
    assert grade(one) is Grade.CONTRADICTED
    assert not rules.may_analyse(one)
    assert used(rules, one, corrected()) == (False, False, Ground.NEEDS_EVIDENCE)
    assert rules.trains_analysis(one, corrected(), ALL)
    assert rules.trains_analysis(one, corrected(reviewed_by="ann"))


BARE = {"reason": "", "category": None, "correction": None}


@pytest.mark.parametrize(
    "said", [{"reason": "No."}, {"follow_up": "No."}, {"category": "style"}, {"correction": RIGHT}]
)
def test_any_word_about_the_mistake_explains_a_thumbs_down(said: dict[str, Any]) -> None:
    assert is_unexplained(report(**BARE))
    assert not is_unexplained(report(**{**BARE, **said}))
    assert not is_unexplained(report(**BARE, checks={"max_words": 3}))


def test_the_analysis_of_a_bare_thumbs_down_needs_other_senders_or_a_person() -> None:
    one, told = report(Evidence.VERIFIED, "vouched", **BARE), lesson("r")
    assert policy().trains_analysis(one, told).ground is Ground.UNEXPLAINED
    assert policy().counts_in_gate(one, told).ground is Ground.UNEXPLAINED
    assert policy().trains_analysis(one, told, ALL)
    assert policy().counts_in_gate(one, told, ALL)
    assert policy().trains_analysis(one, corrected(reviewed_by="ann", reviewed_at=NOW))
    assert policy(train_unexplained="verified").trains_analysis(one, told)
    assert not policy(train_unexplained="claimed", train_analysis="verified").trains_analysis(report(**BARE), told)


def test_a_template_knows_nothing_about_a_bare_thumbs_down() -> None:
    told = lesson("r", analyst=TEMPLATE_ANALYST)
    assert policy().trains_analysis(report(Evidence.VERIFIED, **BARE), told, ALL).ground is Ground.UNEXPLAINED
