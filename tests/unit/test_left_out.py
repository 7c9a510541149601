"""Each part of a run says in its own words what it left out, and why."""

from __future__ import annotations

import pytest

from daemon.labels import LEFT_OUT_TEXT, UNUSABLE, LeftOut
from daemon.left_out import LeftOutBy, LeftOutReport


@pytest.mark.parametrize(
    ("stage", "did_not"),
    [
        (LeftOutBy.DATASET, "could not use it"),
        (LeftOutBy.FINETUNE, "did not train on it"),
        (LeftOutBy.EVALUATION, "could not measure it"),
    ],
)
def test_a_report_left_out_is_told_with_run_and_reason(stage: LeftOutBy, did_not: str) -> None:
    one = LeftOutReport(run_id=7, report_id="a", stage=stage, reason=LeftOut.EMPTY)
    assert one.said == f"run 7 {did_not}: with an empty answer to learn"


def test_every_reason_has_its_words_and_choices_are_no_faults() -> None:
    assert set(LEFT_OUT_TEXT) == set(LeftOut)
    assert not {LeftOut.MAX_REPORTS, LeftOut.NEAR_DUPLICATE, LeftOut.NOT_REACHED, LeftOut.NOT_TRAINABLE} & set(UNUSABLE)
