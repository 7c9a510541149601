"""Who reports what, read from both databases."""

from __future__ import annotations

from datetime import timedelta

from daemon.records import Source, Split, utcnow
from daemon.store import Store
from daemon.trust.corroboration import MAX_VOICES_PER_PRINCIPAL
from tests.fixtures.config import flagged
from tests.fixtures.stores import force, quarantine


def send(store: Store, principal: str, **changes: object) -> str:
    message = flagged(**changes)
    store.reports.add([(message, Source(channel="http", principal=principal))], reporter_cap=1000)
    return message.id


def test_principals_count_as_active_for_a_time_and_erratad_itself_never(store: Store) -> None:
    old, *_ = [send(store, name) for name in ("a", "b", "b", "c", "induced")]
    assert store.witnesses.active(days=30) == 3
    force(store, "UPDATE reports SET received_at = :at WHERE id = :id", at=utcnow() - timedelta(days=31), id=old)
    assert store.witnesses.active(days=30) == 2


def test_voices_are_of_the_cluster_with_those_of_duplicates_and_without_those_out_of_play(store: Store) -> None:
    answer = {"response": "It is Sydney.", "messages": [{"role": "user", "content": "Capital?"}]}
    first = send(store, "a", correction="Canberra.", **answer)
    send(store, "b", correction="Canberra!", **answer)
    bad = send(store, "c", correction="Perth.")
    other = send(store, "d", correction="Paris.")
    cluster = store.clusters.open(report_id=first, category="wrong-fact", leader_text="Capital?", split=Split.TRAIN)
    store.clusters.join(bad, cluster.id)
    quarantine(store, bad)
    elsewhere = store.clusters.open(report_id=other, category="wrong-fact", leader_text="x", split=Split.TRAIN)
    found = store.witnesses.of_clusters([cluster.id])
    assert {(one.principal, one.correction) for one in found[cluster.id]} == {("a", "Canberra."), ("b", "Canberra!")}
    assert elsewhere.id not in found


def test_one_principal_fills_no_more_than_its_places(store: Store) -> None:
    ids = [send(store, "loud", correction="Perth.", reporter=f"r{number}") for number in range(30)]
    ids.append(send(store, "quiet", correction="Canberra."))
    cluster = store.clusters.open(report_id=ids[0], category="wrong-fact", leader_text="x", split=Split.TRAIN)
    for report_id in ids[1:]:
        store.clusters.join(report_id, cluster.id)
    voices = store.witnesses.of_clusters([cluster.id])[cluster.id]
    assert sum(one.principal == "loud" for one in voices) == MAX_VOICES_PER_PRINCIPAL
    assert sum(one.principal == "quiet" for one in voices) == 1
