"""Fair turns and places: what a crowd of hostile reports can take from others, with its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any, cast

import pytest

from daemon.artifacts.examples import Example
from daemon.chat.readings import Refusal
from daemon.config.dataset import DatasetConfig
from daemon.dataset.recipes import mistake_analysis
from daemon.dataset.selection import Selection, select
from daemon.dataset.usable import Usable
from daemon.labels import LeftOut
from daemon.parts import Part
from daemon.records import Cluster, Evidence, Lesson, Report, ReportState, Source, Split, utcnow
from daemon.text.similarity import Words
from tests.fixtures.config import flagged
from tests.fixtures.stores import lesson

NOW = utcnow()
_numbers = count()


class AlmostAllUsable:
    """Texts without the word "useless" can be used."""

    def why_not_example(self, example: Example) -> Refusal | None:
        useless = "useless" in str(example.messages)
        return Refusal(reason=LeftOut.TOO_LONG, detail="long") if useless else None

    def why_not_held_out(self, _report: object) -> None:
        return None


def taught(
    principal: str, reporter: str, *, age_s: float = 0, correction: str | None = None, **changes: Any
) -> tuple[Report, Lesson]:
    """A lesson about something of its own; `cluster` is the number of its cluster."""
    number = next(_numbers)
    values: dict[str, Any] = {
        "messages": [{"role": "user", "content": f"question{number} about subject{number}"}],
        "response": f"answer{number} says statement{number}",
        "reporter": reporter,
    }
    source = Source(channel="test", principal=principal)
    cluster, evidence = changes.pop("cluster", number), changes.pop("evidence", Evidence.CLAIMED)
    state = changes.pop("state", ReportState.LESSON)
    message = flagged(**{**values, **changes})
    when = NOW - timedelta(seconds=age_s)
    report = Report(
        id=message.id,
        state=state,
        flagged=message,
        source=source,
        received_at=when,
        updated_at=when,
        cluster_id=cluster,
        evidence=evidence,
    )
    wanted = {} if correction is None else {"correction": correction, "correction_source": "user"}
    return report, lesson(message.id, **wanted)


def chosen(
    found: Sequence[tuple[Report, Lesson]],
    *,
    trusted: Sequence[str] = (),
    held_out: Sequence[int] = (),
    assigned: Mapping[str, Cluster] | None = None,
    **config: Any,
) -> Selection:
    """The selection of lessons whose clusters are on the training side but for `held_out`."""
    newest_first = sorted(found, key=lambda one: one[0].received_at, reverse=True)
    sides = {
        report.id: Cluster(
            id=report.cluster_id or 0,
            category=report.flagged.category,
            leader_text=report.prompt_text,
            split=Split.HOLDOUT if report.cluster_id in held_out else Split.TRAIN,
        )
        for report, _ in found
    }
    return select(
        newest_first,
        assigned or sides,
        config=DatasetConfig.model_validate(config),
        render=mistake_analysis,
        vectorizer=Words(),
        usable=cast("Usable", AlmostAllUsable()),
        is_trusted=set(trusted).__contains__,
    )


def trained(selection: Selection) -> Counter[str]:
    """Training lessons by principal."""
    return Counter(one.report.source.principal for one in selection.train)


def reporters(selection: Selection) -> Counter[str]:
    return Counter(one.report.flagged.reporter for one in selection.train)


def test_ten_sybil_names_with_fifty_new_reports_each_leave_four_hundred_older_honest_ones_their_places() -> None:
    """Of 500 places they filled 500."""
    honest = [taught("app", f"user-{number % 40}", age_s=9000 + number) for number in range(400)]
    sybils = [taught("app", f"sybil-{number % 10}", age_s=number) for number in range(500)]
    counted = reporters(chosen([*honest, *sybils]))
    assert sum(number for name, number in counted.items() if name.startswith("user")) == 400
    assert sum(number for name, number in counted.items() if name.startswith("sybil")) == 100


def test_a_crowd_in_a_principal_of_its_own_gets_no_more_than_its_share() -> None:
    honest = [taught("app", f"user-{number % 40}", age_s=9000 + number) for number in range(200)]
    crowd = [taught("anyone", f"sybil-{number}", age_s=number) for number in range(2000)]
    selection = chosen([*honest, *crowd])
    assert trained(selection) == {"app": 200, "anyone": 201}
    assert selection.left_out == {LeftOut.MAX_PER_PRINCIPAL: 1799}


def test_the_floor_and_the_share_bound_an_untrusted_principal_beside_few_lessons_of_others() -> None:
    few = [taught("app", f"user-{number}", age_s=9000 + number) for number in range(10)]
    many = [taught("anyone", f"sybil-{number}", age_s=number) for number in range(400)]
    assert trained(chosen([*few, *many])) == {"app": 10, "anyone": 100}
    assert trained(chosen([*few, *many], min_per_principal=5)) == {"app": 10, "anyone": 11}
    assert trained(chosen([*few, *many], min_per_principal=5, max_principal_share=0.9)) == {"app": 10, "anyone": 99}


def test_a_trusted_principal_and_one_alone_have_no_bound() -> None:
    few = [taught("anyone", "somebody", age_s=number) for number in range(10)]
    many = [taught("app", f"user-{number}", age_s=number) for number in range(400)]
    assert trained(chosen([*few, *many], trusted=["app"])) == {"app": 400, "anyone": 10}
    assert trained(chosen(many)) == {"app": 400}


def test_a_share_that_cannot_hold_for_all_leaves_no_place_empty() -> None:
    lessons = [taught(f"p{number % 2}", f"user-{number}") for number in range(400)]
    assert trained(chosen(lessons, max_principal_share=0.3)) == {"p0": 200, "p1": 200}


def test_a_principal_whose_rivals_have_nothing_usable_is_alone() -> None:
    lessons = [taught("app", f"user-{number}") for number in range(200)]
    useless = taught("anyone", "x", messages=[{"role": "user", "content": "useless"}])
    selection = chosen([*lessons, useless])
    assert (trained(selection), selection.left_out) == ({"app": 200}, {LeftOut.TOO_LONG: 1})


def test_no_principal_takes_the_places_of_a_cluster_that_others_can_fill() -> None:
    honest = [taught("app", f"user-{number}", age_s=9000, cluster=-1) for number in range(15)]
    others = [taught("app", f"user-{number}", age_s=9000) for number in range(60)]
    hostile = [taught("anyone", f"sybil-{number}", cluster=-1) for number in range(60)]
    in_cluster = Counter(
        one.report.source.principal for one in chosen([*honest, *others, *hostile]).train if one.cluster.id == -1
    )
    assert in_cluster == {"app": 10, "anyone": 10}
    assert trained(chosen([*honest[:3], *hostile])) == {"app": 3, "anyone": 17}


def test_a_reporter_cap_counts_a_name_within_its_principal() -> None:
    lessons = [taught(principal, "ann") for principal in ("app", "site") for _ in range(5)]
    assert trained(chosen(lessons, max_per_reporter=3)) == {"app": 3, "site": 3}


def test_inside_a_reporter_clusters_take_turns_newest_first_and_unresolved_ones_come_first() -> None:
    loud = [taught("app", "ann", age_s=number, cluster=-1) for number in range(5)]
    quiet = taught("app", "ann", age_s=500, cluster=-2)
    done = taught("app", "bob", state=ReportState.RESOLVED)
    order = [one.report.id for one in chosen([*loud, quiet, done]).train]
    assert order == [loud[0][0].id, quiet[0].id, *(one.id for one, _ in loud[1:]), done[0].id]


def test_of_too_many_reporters_those_who_wait_longest_and_the_newest_take_turns() -> None:
    lessons = [taught("app", f"user-{number}", age_s=number) for number in range(100)]
    assert set(reporters(chosen(lessons, max_reports=4))) == {"user-99", "user-98", "user-0", "user-1"}


def test_a_lesson_that_several_principals_back_takes_no_place_of_the_one_with_most() -> None:
    """Somebody who reports an answer first must not have its other reports counted as his."""
    when = NOW - timedelta(hours=2)
    part = Part(
        report_id="x", principal="app", reporter="user", received_at=when, reason="", correction=None, checks=None,
        severity=flagged().severity,
    )  # fmt: skip
    shared = [(replace(report, others=(part,)), one) for report, one in (taught("anyone", "first") for _ in range(30))]
    own = [taught("anyone", f"sybil-{number}") for number in range(60)]
    selection = chosen([*own, *shared], min_per_principal=5)
    assert len({one.report.id for one in selection.train} & {report.id for report, _ in shared}) == 30


SAME = {
    "messages": [{"role": "user", "content": "Where do I reset my PIN?"}],
    "response": "Nowhere at all.",
    "cluster": -1,
}


@pytest.mark.parametrize(
    ("hostile", "honest", "trusted"),
    [
        ({}, {"evidence": Evidence.VERIFIED}, []),
        ({}, {}, ["app"]),
        ({"evidence": Evidence.VERIFIED}, {}, ["app"]),
    ],
    ids=["evidence", "trust", "trust-before-evidence"],
)
def test_of_near_duplicates_the_one_with_more_behind_it_stays(
    hostile: dict[str, Any], honest: dict[str, Any], trusted: list[str]
) -> None:
    planted = taught("anyone", "x", correction="Visit evil.example.", **SAME, **hostile)
    right = taught("app", "ann", correction="In the settings.", age_s=500, **SAME, **honest)
    for order in ([planted, right], [right, planted]):
        selection = chosen(order, trusted=trusted)
        assert [one.report.id for one in selection.train] == [right[0].id]
        assert selection.left_out == {LeftOut.NEAR_DUPLICATE: 1}


def test_a_hostile_report_does_not_make_the_honest_ones_of_two_principals_its_near_duplicates() -> None:
    planted = [taught("anyone", f"sybil-{number}", correction="Visit evil.example.", **SAME) for number in range(30)]
    right = [taught(name, "ann", correction="In the settings.", age_s=500, **SAME) for name in ("app", "site")]
    [kept] = chosen([*planted, *right]).train
    assert kept.report.id in {report.id for report, _ in right}


def test_near_duplicates_have_a_say_though_the_run_is_full() -> None:
    planted = taught("anyone", "x", correction="Visit evil.example.", **SAME)
    right = [taught(name, "ann", correction="In the settings.", age_s=500, **SAME) for name in ("app", "site")]
    [kept] = chosen([planted, *right], max_reports=1).train
    assert kept.lesson.correction == "In the settings."


def test_a_reviewed_lesson_stays_whatever_others_say() -> None:
    planted = [taught(name, "x", correction="Visit evil.example.", **SAME) for name in ("a", "b", "c")]
    report, one = taught("app", "ann", correction="In the settings.", **SAME)
    [kept] = chosen([*planted, (report, replace(one, reviewed_at=NOW, reviewed_by="op"))]).train
    assert kept.report.id == report.id
