"""The reflection queue: leases, fencing, retries, and the operators' actions on reports."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest

from connectors.messages import EventType
from daemon.categories import Kind
from daemon.errors import IllegalTransitionError, LeaseLostError, NotFoundError
from daemon.records import CorrectionSource, ReportState, Split, utcnow
from daemon.report_filter import ReportFilter
from daemon.store import Store
from tests.fixtures.config import flagged
from tests.fixtures.stores import add, force, learn, lesson, quarantine, url_of, waiting_events


def test_reports_are_claimed_oldest_first_and_only_once(store: Store) -> None:
    first, second = flagged(), flagged()
    add(store, first)
    add(store, second)
    [claim] = store.reports.claim(owner="a", limit=1, lease_s=60)
    assert (claim.report.id, claim.report.state, claim.report.attempts) == (first.id, ReportState.REFLECTING, 1)
    assert [other.report.id for other in store.reports.claim(owner="b", limit=5, lease_s=60)] == [second.id]
    assert store.reports.claim(owner="c", limit=5, lease_s=60) == []


def test_eight_workers_at_once_never_hold_the_same_report(store: Store, open_stores: Callable[[str], Store]) -> None:
    add(store, *[flagged() for _ in range(120)])
    claimed: list[str] = []
    failures: list[Exception] = []
    barrier = threading.Barrier(8)

    def work(name: str, own: Store) -> None:
        barrier.wait()
        try:
            while claims := own.reports.claim(owner=name, limit=5, lease_s=600):
                claimed.extend(claim.report.id for claim in claims)
        except Exception as exc:
            failures.append(exc)

    # half of the workers share a store as threads do, half have their own as processes do
    stores = [store] * 4 + [open_stores(url_of(store)) for _ in range(4)]
    threads = [threading.Thread(target=work, args=(f"w{n}", own)) for n, own in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    # a worker may see an empty queue while others hold locks; what is left over is still to be claimed
    claimed += [claim.report.id for claim in store.reports.claim(owner="last", limit=200, lease_s=600)]
    assert len(claimed) == len(set(claimed)) == 120


def test_a_lesson_ends_the_claim_and_tells_of_it(store: Store) -> None:
    message = flagged()
    add(store, message)
    [claim] = store.reports.claim(owner="w", limit=1, lease_s=60)
    learned = lesson(message.id, correction="Paris", correction_source=CorrectionSource.USER)
    store.reports.complete(claim, learned)
    report = store.reports.get(message.id)
    assert (report.state, report.lease_owner) == (ReportState.LESSON, None)
    assert store.reports.lesson(message.id) == learned
    assert [(one.type, one.subject) for one in waiting_events(store)] == [(EventType.LESSON_CREATED, message.id)]


def test_another_worker_takes_over_when_the_lease_is_over_and_the_late_result_is_dropped(store: Store) -> None:
    message = flagged()
    add(store, message)
    [late] = store.reports.claim(owner="slow", limit=1, lease_s=0)
    [claim] = store.reports.claim(owner="fast", limit=1, lease_s=60)
    assert (claim.report.id, claim.report.attempts) == (message.id, 2)
    with pytest.raises(LeaseLostError, match=message.id):
        store.reports.complete(late, lesson(message.id, analysis="late"))
    with pytest.raises(LeaseLostError):
        store.reports.retry(late, at=utcnow(), reason="late")
    with pytest.raises(LeaseLostError):
        store.reports.bury(late, reason="late")
    assert store.reports.lesson(message.id) is None
    assert len(waiting_events(store)) == 0
    store.reports.complete(claim, lesson(message.id, analysis="in time"))
    assert store.reports.lesson(message.id).analysis == "in time"  # type: ignore[union-attr]


def test_a_worker_that_takes_its_own_report_over_again_is_fenced_too(store: Store) -> None:
    add(store, flagged())
    [late] = store.reports.claim(owner="w", limit=1, lease_s=0)
    store.reports.claim(owner="w", limit=1, lease_s=60)
    with pytest.raises(LeaseLostError):
        store.reports.complete(late, lesson(late.report.id))


def test_a_retried_report_waits_for_its_time(store: Store) -> None:
    add(store, flagged(), flagged())
    soon, later = store.reports.claim(owner="w", limit=2, lease_s=60)
    store.reports.retry(soon, at=utcnow() - timedelta(seconds=1), reason="timeout")
    store.reports.retry(later, at=utcnow() + timedelta(hours=1), reason="timeout")
    [again] = store.reports.claim(owner="w", limit=5, lease_s=60)
    assert (again.report.id, again.report.attempts) == (soon.report.id, 2)
    assert store.reports.get(later.report.id).state_reason == "timeout"


def test_a_buried_report_is_revived_with_a_fresh_count_of_attempts(store: Store) -> None:
    add(store, flagged())
    [claim] = store.reports.claim(owner="w", limit=1, lease_s=60)
    store.reports.bury(claim, reason="no analysis passed")
    assert store.reports.get(claim.report.id).state == ReportState.BURIED
    assert store.reports.claim(owner="w", limit=1, lease_s=60) == []
    store.reports.requeue(claim.report.id, actor="op", reason="new template")
    [again] = store.reports.claim(owner="w", limit=1, lease_s=60)
    assert again.report.attempts == 1
    assert [(entry.action, entry.actor) for entry in store.audit.entries()] == [("requeue", "op")]


def test_a_quarantined_duplicate_or_relearned_report_goes_through_reflection_again(store: Store) -> None:
    original = flagged()
    twin = flagged(messages=original.messages, response=original.response)
    learn(store, original)
    add(store, twin)
    quarantine(store, original.id)  # the twin takes its place
    store.reports.requeue(original.id, actor="op", reason="checked")
    claims = store.reports.claim(owner="w", limit=5, lease_s=60)
    assert {claim.report.id for claim in claims} == {original.id, twin.id}
    for claim in claims:
        store.reports.complete(claim, lesson(claim.report.id, analysis="second"))
    assert store.reports.lesson(original.id).analysis == "second"  # type: ignore[union-attr]


def test_an_illegal_move_says_what_state_the_report_is_in(store: Store) -> None:
    [report_id] = learn(store, flagged())
    store.reports.erase(report_id, actor="op", reason="asked")
    with pytest.raises(IllegalTransitionError, match=f"{report_id} is erased: it cannot become queued"):
        store.reports.requeue(report_id, actor="op", reason="why not")
    assert [entry.action for entry in store.audit.entries()] == ["erase"]


def test_an_unknown_report_is_not_found(store: Store) -> None:
    for call in (
        lambda: store.reports.get("unknown"),
        lambda: store.reports.erase("unknown", actor="op", reason="asked"),
        lambda: store.clusters.join("unknown", 1),
    ):
        with pytest.raises(NotFoundError, match="unknown"):
            call()


def test_erasing_removes_every_text_of_the_report_and_keeps_its_lineage(store: Store) -> None:
    secret = "the-secret"
    message = flagged(
        messages=[{"role": "user", "content": secret}],
        response=secret,
        reason=secret,
        correction=secret,
        tenant=secret,
        reporter=secret,
        metadata={"note": secret},
        checks={"must_contain": [secret]},
        tool_calls=[{"function": {"name": secret}}],
        trace=secret,
    )
    learn(store, message)
    cluster = store.clusters.open(report_id=message.id, category="wrong-fact", leader_text=secret, split=Split.TRAIN)
    store.reports.erase(message.id, actor="op", reason="asked")
    erased = store.reports.get(message.id)
    assert (erased.state, erased.cluster_id) == (ReportState.ERASED, cluster.id)
    assert secret not in repr(erased)
    assert secret not in repr(store.clusters.all())
    assert store.reports.lesson(message.id) is None
    with pytest.raises(IllegalTransitionError):
        store.reports.requeue(message.id, actor="op", reason="no way back")


def test_a_report_erased_during_reflection_gets_no_lesson(store: Store) -> None:
    add(store, flagged())
    [claim] = store.reports.claim(owner="w", limit=1, lease_s=60)
    store.reports.erase(claim.report.id, actor="op", reason="asked")
    with pytest.raises(LeaseLostError):
        store.reports.complete(claim, lesson(claim.report.id))
    assert store.reports.lesson(claim.report.id) is None


def test_text_that_no_database_can_store_is_mended(store: Store) -> None:
    add(store, flagged())
    [claim] = store.reports.claim(owner="w", limit=1, lease_s=60)
    store.reports.complete(claim, lesson(claim.report.id, analysis="a\0b\ud800c"))
    assert store.reports.lesson(claim.report.id).analysis == "a\ufffdb?c"  # type: ignore[union-attr]


def test_listings_find_by_state_category_and_id(store: Store) -> None:
    queued, other = flagged(id="find-me_1"), flagged(id="findXme_1", category="format")
    add(store, queued, other)
    assert [r.id for r in store.reports.find(ReportFilter(search="d-me_"))] == [queued.id]
    assert [r.id for r in store.reports.find(ReportFilter(category="format"))] == [other.id]
    assert {r.id for r in store.reports.find(ReportFilter(state=ReportState.QUEUED))} == {queued.id, other.id}
    assert len(store.reports.find(limit=1, offset=1)) == 1
    assert store.reports.counts() == {state: 2 if state == ReportState.QUEUED else 0 for state in ReportState}
    assert store.reports.oldest_queued_at() == store.reports.get(queued.id).received_at


def test_a_report_that_can_never_be_trained_on_is_no_new_lesson_and_no_candidate(store: Store) -> None:
    image = {"type": "image_url", "image_url": {"url": "http://example.org/a.png"}}
    seen = flagged(messages=[{"role": "user", "content": ["What is this?", image]}])
    plain = flagged()
    learn(store, seen, plain)
    assert [report.id for report, _ in store.reports.trainable(limit=5)] == [plain.id]
    assert (store.reports.count_new_lessons(), store.reports.count_not_trainable()) == (1, 1)
    assert store.reports.get(seen.id).flagged == seen
    store.reports.erase(seen.id, actor="op", reason="asked")
    assert store.reports.get(seen.id).flagged.not_trainable is None
    assert store.reports.count_not_trainable() == 0


def test_a_report_stored_before_the_schema_took_other_shapes_is_read_as_what_it_means(store: Store) -> None:
    old = flagged(
        messages=[{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": []}, {"role": "tool"}]
    )
    add(store, old)
    document = {**old.model_dump(mode="json", exclude_none=True), "reason": "   ", "correction": "\u200b"}
    force(store, "UPDATE reports SET flagged = :flagged", flagged=json.dumps(document))
    assert store.reports.get(old.id).flagged == old.model_copy(update={"reason": "", "correction": None})


def test_a_guess_is_stored_only_by_the_worker_that_holds_the_report(store: Store) -> None:
    add(store, flagged(id="bare", category=None))
    [claim] = store.reports.claim(owner="w", limit=1, lease_s=60)
    force(store, "UPDATE reports SET lease_owner = 'other'")
    with pytest.raises(LeaseLostError):
        store.reports.guess(claim, Kind.STYLE, by="self:base")
    assert store.reports.get("bare").guessed_kind is None
    force(store, "UPDATE reports SET lease_owner = 'w'")
    store.reports.guess(claim, Kind.STYLE, by="self:base")
    report = store.reports.get("bare")
    assert (report.state, report.attempts, report.kind, report.guessed_by) == (
        ReportState.QUEUED,
        0,
        Kind.STYLE,
        "self:base",
    )


def test_a_bare_thumbs_down_alone_starts_no_run(store: Store) -> None:
    bare = flagged(reason="", category=None)
    learn(store, bare)
    assert store.reports.count_new_lessons() == 0
    again = {"messages": bare.messages, "response": bare.response, "category": None}
    add(store, flagged(**again, reason=""))
    assert store.reports.count_new_lessons() == 1


def test_reports_are_found_by_named_and_by_guessed_categories(store: Store) -> None:
    add(store, flagged(id="bare", category=None))
    [claim] = store.reports.claim(owner="w", limit=1, lease_s=60)
    store.reports.guess(claim, Kind.STYLE, by="self:base")
    add(store, flagged(id="own", category="my-own"), flagged(id="named", category="style"))
    add(store, flagged(id="waits", category=None))
    assert store.reports.categories() == ["my-own", "style", "unknown"]
    found = {
        name: {one.id for one in store.reports.find(ReportFilter(category=name))} for name in store.reports.categories()
    }
    assert found == {"my-own": {"own"}, "style": {"bare", "named"}, "unknown": {"waits"}}
