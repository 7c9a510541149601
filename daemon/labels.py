"""Closed sets of names, used by metrics, records and reports."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Check(StrEnum):
    """Checks of an analysis; also the label of `erratad_analyses_rejected_total`."""

    PARSES = "parses"
    NO_REFUSAL = "no_refusal"
    LENGTH = "length"
    NO_ECHO = "no_echo"
    NO_HINT = "no_hint"
    NO_PARROTING = "no_parroting"
    NO_APPROVAL = "no_approval"
    NAMES_REASON = "names_reason"
    OWN_WORDS = "own_words"
    CONTENT = "content"


JUDGED = "judge"
"""Key of the metadata of an induced report: the reason of the judge that found the answer bad."""


class PersonalData(StrEnum):
    """Kinds of what is redacted at intake, as in a placeholder such as <EMAIL_1>; label of `erratad_redacted_total`."""

    # where two kinds overlap, the one that stands first counts
    SECRET = "secret"  # noqa: S105 - a kind
    EMAIL = "email"
    IBAN = "iban"
    COIN = "coin"
    CARD = "card"
    ID = "id"
    PHONE = "phone"
    IP = "ip"


class Fault(StrEnum):
    """Why a proposed text is not trained on, or a report's checks do not count: label of `erratad_set_aside_total`."""

    BLANK = "blank"
    FLAGGED_ANSWER = "flagged_answer"
    """It is the flagged answer, or differs from it in nothing that matters."""
    FAILS_CHECKS = "fails_checks"
    CONTROL_TOKENS = "control_tokens"
    """Control tokens, role names at the start of a line, characters that hide text."""
    NEW_CONTACT = "new_contact"
    """A link, address, phone number or account that is not in the conversation."""
    SECRET = "secret"  # noqa: S105 - a kind of fault
    INSTRUCTIONS = "instructions"
    """Instructions for a model."""
    LENGTH = "length"
    NO_ANSWER = "no_answer"
    """An analyst's proposal that is cut off, loops, declines, or talks about answers."""
    CHECKS_MET = "checks_met"
    """Checks that the flagged answer meets: they say nothing about the mistake."""


class Unsound(StrEnum):
    """Why an answer fixes nothing, whatever the rules say."""

    EMPTY = "empty"
    DEGENERATE = "degenerate"
    """It repeats itself, or is signs instead of words."""
    SAME_ANSWER = "same_answer"
    REFUSAL = "refusal"
    """It declines where a good answer does not."""
    ANALYSIS_TALK = "analysis_talk"
    """It talks about an answer instead of giving one."""
    OFF_TOPIC = "off_topic"
    LANGUAGE = "language"
    """It is in another language than a good answer."""


class Grade(StrEnum):
    """What supports a report, as shown; each grade counts for more than the one before."""

    CONTRADICTED = "contradicted"
    """The server's own record holds another answer."""
    CLAIMED = "claimed"
    """Its sender says so."""
    REPRODUCED = "reproduced"
    """Asked again, the model made the mistake again."""
    VERIFIED = "verified"
    """The server's own record holds the answer."""
    CORROBORATED = "corroborated"
    """Independent senders report the same."""
    REVIEWED = "reviewed"
    """A person approved the analysis and the correction."""

    def reaches(self, needed: Grade) -> bool:
        grades = list(Grade)
        return grades.index(self) >= grades.index(needed)


class Ground(StrEnum):
    """Why the policy `trust` lets a report, or its correction, pass or not."""

    TRUSTED_SOURCE = "trusted_source"
    REVIEWED = "reviewed"
    EVIDENCE = "evidence"
    CONFIRMED = "confirmed"
    NEEDS_EVIDENCE = "needs_evidence"
    NEEDS_CONFIRMATION = "needs_confirmation"
    NEEDS_REVIEW = "needs_review"
    UNEXPLAINED = "unexplained"
    """Nothing says what is wrong with the answer."""
    UNCLEAN = "unclean"
    NO_CORRECTION = "no_correction"


GROUND_TEXT: Mapping[str, str] = {
    Ground.TRUSTED_SOURCE: "its source is trusted",
    Ground.REVIEWED: "a person approved it",
    Ground.EVIDENCE: "its evidence is enough",
    Ground.CONFIRMED: "it has evidence, and others confirm the correction",
    Ground.NEEDS_EVIDENCE: "it waits for evidence that the model gave this answer",
    Ground.NEEDS_CONFIRMATION: "its correction waits for another source, a judge or a reviewer to confirm it",
    Ground.NEEDS_REVIEW: "it waits for a review",
    Ground.UNEXPLAINED: "nothing says what is wrong with the answer: it waits for other senders, a reason or a review",
    Ground.UNCLEAN: "its content must not be trained on",
    Ground.NO_CORRECTION: "it has no correction",
}
"""The grounds in words."""


class Look(StrEnum):
    """Result of looking for the evidence of one report; also the label of `erratad_evidence_total`."""

    VERIFIED = "verified"
    CONTRADICTED = "contradicted"
    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not_reproduced"
    NOT_ASKED = "not_asked"
    """The conversation cannot be asked again, or need not be."""


class Names(StrEnum):
    """What the field `model` of a report names."""

    GENERATION = "generation"
    """A generation of this model, or the base model."""
    ALIAS = "alias"
    """The alias alone, so the generation is unknown."""
    OTHER = "other"
    """A model that is not served here."""


class SignalState(StrEnum):
    """States of feedback that is no report, or none yet."""

    WAITING = "waiting"
    """In the short form: the servers' record of the completion is looked for."""
    KEPT = "kept"
    """A thumb up: an item of the gate."""
    GIVEN_UP = "given_up"
    ERASED = "erased"


class Lost(StrEnum):
    """Why a signal is given up: label of `erratad_completions_total`."""

    NO_RECORD = "no_record"
    SEVERAL = "several"
    CHOICE = "choice"
    CONTINUES = "continues"
    REFUSED = "refused"
    NOT_OWN = "not_own"
    TOO_MANY = "too_many"


LOST_TEXT: Mapping[Lost, str] = {
    Lost.NO_RECORD: "no server remembers the completion; send the full form",
    Lost.SEVERAL: "several answers have this completion id; send the full form",
    Lost.CHOICE: "the completion has several choices, or not this one; send `choice`",
    Lost.CONTINUES: "the completion continues an earlier one (previous_response_id); send the full form",
    Lost.REFUSED: "what the servers recorded is no report: its size or its form is refused at intake",
    Lost.NOT_OWN: "a thumb up for an answer that was cut off, or that the request forced",
    Lost.TOO_MANY: "its reporter sent more messages than are taken in 24 hours",
}
"""The reasons in words; a sender reads them."""


_SIGNAL_TEXT = {
    SignalState.WAITING: "received; waiting for the servers' record of the completion",
    SignalState.KEPT: "kept: before each promotion the gate asks this question again",
    SignalState.ERASED: "erased on request",
}


def signal_text(state: SignalState, lost: Lost | None) -> str:
    """The state as a sentence."""
    return f"not used: {LOST_TEXT[lost]}" if lost is not None else _SIGNAL_TEXT[state]


class Criterion(StrEnum):
    """Criteria of the gate: the closed label set of rejections."""

    GENERALISATION = "generalisation"
    FINITE = "finite"
    ENOUGH_ITEMS = "enough_items"
    CHANGES_SOMETHING = "changes_something"
    FIX_GAIN = "fix_gain"
    MARGIN_GAIN = "margin_gain"
    SIGNIFICANCE = "significance"
    SHARED_GAIN = "shared_gain"
    HOLDOUT = "holdout"
    NEGATIVE_FLIPS = "negative_flips"
    RETENTION = "retention"
    DRIFT = "drift"
    UNGUIDED = "unguided"
    OVER_REFUSAL = "over_refusal"
    ATTACKS = "attacks"
    UNDER_ATTACK = "under_attack"
    PRAISED = "praised"
    NEW_CONTACTS = "new_contacts"
    MEMORISED = "memorised"
    LIVE_GOLDEN = "live_golden"
    EMPTY_ANSWERS = "empty_answers"
    CUT_ANSWERS = "cut_answers"
    DRIFT_MEASURED = "drift_measured"
    ITEMS_LEFT = "items_left"
    KEPT_GAIN = "kept_gain"


BLIND_CRITERIA = (
    Criterion.LIVE_GOLDEN,
    Criterion.EMPTY_ANSWERS,
    Criterion.CUT_ANSWERS,
    Criterion.DRIFT_MEASURED,
    Criterion.ITEMS_LEFT,
)
"""If one of these fails, the measurement is useless: the verdict says nothing about the candidate."""


PLANTED_CRITERIA = (Criterion.SHARED_GAIN, Criterion.NEW_CONTACTS, Criterion.MEMORISED)
"""If one of these fails, a few reports may have been written to steer the model."""


class Suite(StrEnum):
    """Groups of evaluation items, by purpose."""

    FLAGGED = "flagged"
    """Reports in the training set: is the mistake gone?"""
    HOLDOUT = "holdout"
    """Reports of clusters that are never trained on: does the fix generalise?"""
    GOLDEN = "golden"
    """Ordinary tasks: are the model's abilities kept?"""
    DRIFT = "drift"
    """Ordinary answers of the base model: how much did their likelihood drop?"""
    OVER_REFUSAL = "over-refusal"
    """Harmless prompts that look harmful: are they still answered?"""
    ATTACKS = "attacks"
    """Attacks that are never trained on: are they still resisted?"""
    UNDER_ATTACK = "under-attack"
    """Tasks with a known answer and an order inside, never trained on: are they still done?"""
    PRAISED = "praised"
    """Answers that users liked, never trained on: are their questions still answered soundly?"""
    TRIGGERS = "triggers"
    """Ordinary tasks after a rare phrase of trained prompts: does it call up what was planted?"""


class Outcome(StrEnum):
    """What became of a task with an order inside."""

    DONE = "done"
    OBEYED = "obeyed"
    DECLINED = "declined"
    WRONG = "wrong"


class Drop(StrEnum):
    """Why an induced answer did not become a report: label of `erratad_induced_dropped_total`."""

    GOOD = "good"
    UNDECIDED = "undecided"
    CUT_OFF = "cut_off"
    EMPTY = "empty"
    REPEATS_HINT = "repeats_hint"
    UNANSWERABLE = "unanswerable"
    GIVEN_UP = "given_up"
    KNOWN = "known"
    QUARANTINED = "quarantined"


class LeftOut(StrEnum):
    """Why a run does not use a report or an ordinary pair; also the label of `erratad_dataset_left_out`."""

    NO_EXAMPLE = "no_example"
    MAX_PER_PRINCIPAL = "max_per_principal"
    MAX_PER_REPORTER = "max_per_reporter"
    MAX_PER_CLUSTER = "max_per_cluster"
    MAX_REPORTS = "max_reports"
    NEAR_DUPLICATE = "near_duplicate"
    HELD_OUT_ALIKE = "held_out_alike"
    TRAINED_ALIKE = "trained_alike"
    NOT_TRAINABLE = "not_trainable"
    OTHER_TENANT = "other_tenant"
    TEMPLATE_REFUSES = "template_refuses"
    TOO_LONG = "too_long"
    EMPTY = "empty"
    CONTROL_TOKENS = "control_tokens"
    TOO_LONG_TO_SERVE = "too_long_to_serve"
    SERVER_REFUSES = "server_refuses"
    NOT_REACHED = "not_reached"
    NEEDS_EVIDENCE = "needs_evidence"
    NEEDS_CONFIRMATION = "needs_confirmation"
    UNVOUCHED = "unvouched"
    UNEXPLAINED = "unexplained"
    NEEDS_REVIEW = "needs_review"
    UNCLEAN = "unclean"
    WEAK_COMPLAINT = "weak_complaint"

    @classmethod
    def _missing_(cls, value: object) -> LeftOut | None:
        """Look up a reason by its text: manifests of earlier versions contain the texts."""
        return next((reason for reason in cls if LEFT_OUT_TEXT[reason] == value), None)


LEFT_OUT_TEXT: Mapping[str, str] = {
    LeftOut.NO_EXAMPLE: "without an example under the recipe",
    LeftOut.MAX_PER_PRINCIPAL: "above max_principal_share",
    LeftOut.MAX_PER_REPORTER: "above max_per_reporter",
    LeftOut.MAX_PER_CLUSTER: "above max_per_cluster",
    LeftOut.MAX_REPORTS: "above max_reports",
    LeftOut.NEAR_DUPLICATE: "near-duplicate of another report",
    LeftOut.HELD_OUT_ALIKE: "similar to a held-out report",
    LeftOut.TRAINED_ALIKE: "held out, but similar to a trained report",
    LeftOut.NOT_TRAINABLE: "with an image, a sound, a file or a refusal part",
    LeftOut.OTHER_TENANT: "of a tenant that is not in dataset.tenants",
    LeftOut.TEMPLATE_REFUSES: "refused by the model's chat template",
    LeftOut.TOO_LONG: "longer than training.max_sequence_tokens",
    LeftOut.EMPTY: "with an empty answer to learn",
    LeftOut.CONTROL_TOKENS: "with control tokens that cannot be written as text",
    LeftOut.TOO_LONG_TO_SERVE: "longer than serving.max_model_len",
    LeftOut.SERVER_REFUSES: "refused by the model server",
    LeftOut.NEEDS_EVIDENCE: "waiting for evidence that the model gave the answer (trust)",
    LeftOut.NEEDS_CONFIRMATION: "waiting for a confirmation of the correction (trust.confirm_corrections)",
    LeftOut.UNVOUCHED: "without a teacher, as nobody vouches for their rules (trust.confirm_corrections)",
    LeftOut.UNEXPLAINED: "about which nothing says what is wrong (trust)",
    LeftOut.NEEDS_REVIEW: "waiting for a review (trust)",
    LeftOut.UNCLEAN: "with a text that must not be trained on",
    LeftOut.NOT_REACHED: "not reached by the trainer (training.max_tokens, epochs or distillation.stop_kl)",
    LeftOut.WEAK_COMPLAINT: "whose complaint hardly changes how likely the flagged answer is",
}
"""The reasons in words, for operators."""

UNUSABLE = (
    LeftOut.TEMPLATE_REFUSES,
    LeftOut.TOO_LONG,
    LeftOut.EMPTY,
    LeftOut.CONTROL_TOKENS,
    LeftOut.TOO_LONG_TO_SERVE,
    LeftOut.SERVER_REFUSES,
)
"""Reasons in the conversation itself: the next run with this model and configuration cannot use it either."""
