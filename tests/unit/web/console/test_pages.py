"""The console's pages: well-formed, accessible, self-contained, and safe to show texts from outside."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response

from connectors.messages import decode
from daemon.categories import Kind
from daemon.config import Config
from daemon.dataset.recipes import RECIPES
from daemon.intake.stage import FeedbackIntake
from daemon.labels import LeftOut
from daemon.left_out import LeftOutBy, LeftOutReport
from daemon.operations.health import Health
from daemon.parts import Analysis
from daemon.records import AdapterState, Evidence, ReportState, Source, utcnow
from daemon.runtime.stage import LastSteps
from daemon.store import Store
from daemon.store.rows import history
from daemon.web.app import create_app
from tests.fakes.fleet import fleet_of
from tests.fixtures.config import flagged
from tests.fixtures.learned import Learned, probed
from tests.fixtures.stores import add, force, learn, lesson, quarantine, run_to_verdict
from tests.fixtures.traffic import answered
from tests.fixtures.training import taught_in_three_ways

VOID = {"meta", "link", "br", "input"}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Parses a page. Fails on a wrongly closed tag."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.title = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open == ["html", "head", "title"]:
            self.title += data

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]


@pytest.fixture
def client(sqlite_store: Store, make_config: Callable[..., Config]) -> Iterator[TestClient]:
    config = make_config()
    app = create_app(
        store=sqlite_store,
        intake=FeedbackIntake(reports=sqlite_store.reports, config=config.intake),
        config=config,
        health=Health(last_steps=LastSteps(), store=sqlite_store, fleet=fleet_of(), base_name="base", max_stall_s=120),
    )
    with TestClient(app, base_url="http://127.0.0.1:8077") as client:
        yield client


def pages(learned: Learned) -> list[str]:
    """Every page. The first ten show data."""
    listings = ["/", "/reports", "/review", "/adapters", "/runs", "/trends", "/feedback", "/audit", "/settings"]
    one = [f"/reports/{learned.report_id}", "/adapters/1", "/adapters/1/decision", "/adapters/0"]
    return [*listings, *one, "/reports?search=nothing-fits", "/login", "/adapters/99"]


def test_every_page_is_well_formed_and_accessible(learned: Learned, client: TestClient) -> None:
    learned.store.control.heartbeat({"ingest": "waits"}, owner="here")
    for path in pages(learned):
        page = Page(client.get(path).text)
        assert page.all("html")[0]["lang"] == "en"
        assert page.title.endswith("erratad")
        assert len(page.all("h1")) == len(page.all("main")) == 1
        assert all(cell.get("scope") in {"row", "col"} for cell in page.all("th"))
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        for region in page.all("div"):
            if region.get("role") == "region":
                assert region.get("aria-labelledby") in ids or region.get("aria-label")
                assert region["tabindex"] == "0"
        levels = [int(tag[1]) for tag, _ in page.tags if tag in {"h1", "h2", "h3", "h4"}]
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), (path, levels)


def test_no_page_loads_anything_from_elsewhere(learned: Learned, client: TestClient) -> None:
    for path in pages(learned):
        answer = client.get(path)
        page = Page(answer.text)
        assert page.all("img", "iframe", "style") == []
        assert [script.get("src") for script in page.all("script")] == ["/static/console.js"]
        assert all((form["action"] or "").startswith("/") for form in page.all("form"))
        assert not any("style" in attributes for _, attributes in page.tags)
        for link in page.all("a", "link"):
            assert (link["href"] or "").startswith(("/", "#", "?", "data:,")), link
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_every_link_leads_somewhere(learned: Learned, client: TestClient) -> None:
    for path in pages(learned)[:10]:
        for link in Page(client.get(path).text).all("a", "link"):
            href = link["href"] or ""
            if href.startswith("/"):
                assert client.get(href).status_code == 200, (path, href)


def test_texts_from_outside_are_shown_and_never_run(client: TestClient, sqlite_store: Store) -> None:
    message = flagged(
        id="a/hostile:report@x",
        response=HOSTILE,
        reason=HOSTILE,
        follow_up=HOSTILE,
        correction=HOSTILE,
        messages=[{"role": "user", "content": HOSTILE}],
        checks={"must_contain": [HOSTILE]},
    )
    add(sqlite_store, message)
    overview = Page(client.get("/").text)
    link = next(link["href"] or "" for link in overview.all("a") if "hostile" in (link["href"] or ""))
    report = Page(client.get(link).text)
    assert overview.all("img") == report.all("img") == []
    assert len(overview.all("script")) == len(report.all("script")) == 1
    assert report.text.count(HOSTILE) == 6


def test_a_report_shows_the_other_reports_of_its_answer_with_their_reporters(
    client: TestClient, sqlite_store: Store
) -> None:
    first = flagged(reporter="ann", checks={"must_contain": ["Perth"]})
    no_perth = {"must_not_contain": ["Perth", "town"]}
    same = {"messages": first.messages, "response": first.response, "checks": no_perth}
    bob = flagged(**same, reporter="bob", reason=HOSTILE, correction="Canberra.", follow_up="No, not Perth.")
    learn(sqlite_store, first)
    add(sqlite_store, bob)
    sqlite_store.reports.complete(
        sqlite_store.reports.claim(owner="w", limit=1, lease_s=60)[0],
        lesson(first.id, correction="Canberra.", correction_source="user"),
    )
    for path in (f"/reports/{first.id}", "/review"):
        page = Page(client.get(path).text)
        assert f"{bob.id}, by bob of test: {HOSTILE}" in page.text
        assert "The user's next message: No, not Perth." in page.text
        assert "The expected answer of bob of test counts." in page.text
        assert f"Set aside from {first.id}, by ann of test: not used: must contain 'Perth'" in page.text
        assert page.all("img") == []
    assert "Same answer as" in client.get(f"/reports/{bob.id}").text


def test_the_overview_says_where_the_daemon_stands(learned: Learned, client: TestClient) -> None:
    silent = Page(client.get("/").text)
    assert "No daemon seems to run" in silent.text
    assert "Start one with <code>erratad run</code>." in client.get("/").text
    learned.store.control.heartbeat({"ingest": "waits for messages"}, owner="machine-1")
    running = Page(client.get("/").text)
    assert "No daemon seems to run" not in running.text
    assert "waits for messages" in running.text
    assert "aligned-g000001" in running.text
    assert learned.report_id in running.text
    assert "in the archive" not in running.text


def test_the_overview_says_how_many_reports_are_archived(sqlite_store: Store, client: TestClient) -> None:
    file = sqlite_store.archive.begin("2026-01/a.parquet", "2026-01")
    force(sqlite_store, "UPDATE archive_files SET state = 'kept', reports = 1234 WHERE id = :id", id=file)
    assert "1,234 closed reports are in the archive" in Page(client.get("/").text).text


def test_a_report_page_shows_answers_before_and_after(learned: Learned, client: TestClient) -> None:
    text = Page(client.get(f"/reports/{learned.report_id}").text).text
    assert text.index("Town 9, <b>surely</b>.") < text.index("The capital is right.")
    assert "aligned-g000000: fails" in " ".join(text.split())
    assert "aligned-g000001: passes" in " ".join(text.split())


def test_a_report_page_shows_all_analyses_and_a_guessed_kind(learned: Learned, client: TestClient) -> None:
    [held] = learned.store.anew.claim(owner="w", limit=9, lease_s=60, live=1)
    now = Analysis(text=HOSTILE, analyst="self:g1", template="v1", at=utcnow(), generation=1)
    past = tuple(replace(one, current=False) for one in history(held.lesson))
    learned.store.anew.complete(held, replace(held.lesson, analysis=now.text, generation=1, analyses=(*past, now)))
    page = Page(client.get(f"/reports/{learned.report_id}").text)
    assert "By generation 1 (self:g1) with template v1" in page.text
    assert "Earlier analyses 1" in page.text
    assert HOSTILE in page.text
    assert page.all("img") == []
    assert "Analyses by self: 1." in Page(client.get("/adapters/1").text).text
    bare = flagged(category=None)
    add(learned.store, bare)
    [claim] = learned.store.reports.claim(owner="w", limit=1, lease_s=60)
    learned.store.reports.guess(claim, Kind.STYLE, by="self:base")
    assert "style (guessed) by self:base" in Page(client.get(f"/reports/{bare.id}").text).text
    for path in ("/", "/reports", "/reports?category=style"):
        assert "style (guessed)" in Page(client.get(path).text).text, path


def test_a_report_that_is_not_fixed_says_so_and_not_its_state(learned: Learned, client: TestClient) -> None:
    html = client.get(f"/reports/{learned.report_id}").text
    assert '<strong>Fixed</strong><span class="quiet">not yet</span>' in html


def test_the_number_of_messages_agrees_with_its_noun(client: TestClient, sqlite_store: Store) -> None:
    learn(sqlite_store, flagged(id="plain"))
    corrected = {"analysis": "It is wrong.", "correction": "It is Canberra."}
    sqlite_store.reviews.correct("plain", **corrected, actor="ann", reason="better")
    counts = re.findall(r"(\d+) (messages?) before the completion", client.get("/reports/plain").text)
    assert ("1", "message") in counts
    assert all((count == "1") == (noun == "message") for count, noun in counts)


def test_a_text_that_is_no_target_is_not_shown_as_one(
    client: TestClient, sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "mistake-analysis+correction", taught_in_three_ways)
    learn(sqlite_store, flagged(id="plain", response="Sydney, of course."))
    sqlite_store.reviews.correct("plain", analysis="Wrong.", correction="Canberra.", actor="ann", reason="better")
    page = client.get("/reports/plain").text
    shown = re.findall(r'<span class="speaker">([^<]+)</span><pre>([^<]*)</pre>', page)
    texts = {text for speaker, text in shown if speaker == "completion"}
    assert texts == {"Canberra."}
    assert ("compared at (no target)", "Canberra.") in shown
    assert ("made less likely", "Sydney, of course.") in shown
    assert ("teacher sees: system", "They do exist, say so.") in shown


def test_a_report_and_a_generation_show_what_was_left_out(learned: Learned, client: TestClient) -> None:
    left_out = LeftOutReport(
        run_id=learned.run_id,
        report_id=learned.report_id,
        stage=LeftOutBy.DATASET,
        reason=LeftOut.TEMPLATE_REFUSES,
        detail="<b>roles</b> must alternate",
    )
    learned.store.left_out.add([left_out])
    said = f"run {learned.run_id} could not use it: refused by the model&#39;s chat template (&lt;b&gt;roles"
    for path in (f"/reports/{learned.report_id}", f"/adapters/{learned.generation}"):
        assert said in client.get(path).text


def test_a_rejected_generation_says_why(client: TestClient, sqlite_store: Store) -> None:
    run = run_to_verdict(sqlite_store, accepted=False)
    text = Page(client.get(f"/adapters/{run.generation}").text).text
    assert "rejected" in text
    assert "a reason" in text
    assert "live generation" in text


def test_a_generation_shows_what_it_did_to_probes(learned: Learned, client: TestClient) -> None:
    probed(learned)
    page = client.get("/adapters/1?show=all").text
    assert "over-refusal, with guidance: 1 before, 0 after, of 1" in page
    assert "attacks, with guidance: 0 before, 1 after, of 1" in page
    assert "probe-over-refusal" in page
    assert "/reports/probe-over-refusal" not in page


def test_a_run_leads_to_its_generation(learned: Learned, client: TestClient) -> None:
    answer = client.get(f"/runs/{learned.run_id}")
    assert answer.url.path == "/adapters/1"
    assert answer.status_code == 200


def test_a_page_that_is_not_there_is_a_page(client: TestClient) -> None:
    for path in ("/adapters/99", "/reports/no-such-id", "/runs/99"):
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert Page(answer.text).all("h1"), path


def send(client: TestClient, path: str, **fields: str | list[str]) -> Response:
    """Post a form with the CSRF token of the overview."""
    csrf = next(field["value"] for field in Page(client.get("/").text).all("input") if field.get("name") == "csrf")
    return client.post(path, data={"csrf": csrf or "", **fields})


@pytest.mark.parametrize(
    ("path", "fields", "status", "words"),
    [
        ("/steer", {"intent": "promote", "reason": "x"}, 409, "no generation is given"),
        ("/steer", {"intent": "promote", "reason": "x", "generation": "9"}, 404, "no generation 9"),
        ("/steer", {"intent": "refuse", "reason": "x", "generation": "1"}, 409, "not promoting"),
        ("/steer", {"intent": "pause", "reason": "x", "stage": "lunch"}, 404, "no stage"),
        ("/steer", {"intent": "explode", "reason": "x"}, 422, "intent"),
        ("/steer", {"intent": "train", "reason": ""}, 422, "reason"),
        ("/review", {"report_id": "no-such-id", "decision": "accept"}, 404, "no-such-id"),
        ("/review", {"report_id": "no-such-id", "decision": "correct", "analysis": " "}, 409, "the analysis is empty"),
        ("/erase", {"report_id": "no-such-id", "reason": "x"}, 404, "no-such-id"),
        ("/bulk", {"decision": "accept", "reason": "x"}, 422, "report_ids"),
        ("/bulk", {"decision": "erase", "reason": "x", "report_ids": "a"}, 422, "decision"),
    ],
)
def test_a_form_that_asks_for_the_impossible_gets_a_page_that_says_so(
    learned: Learned, client: TestClient, path: str, fields: dict[str, str], status: int, words: str
) -> None:
    audited = len(learned.store.audit.entries())
    answer = send(client, path, **fields)
    assert answer.status_code == status
    assert words in Page(answer.text).text
    assert len(learned.store.audit.entries()) == audited


def test_a_form_does_what_it_says_and_tells_so(learned: Learned, client: TestClient) -> None:
    said = Page(send(client, "/steer", intent="pause", stage="finetune", reason="the GPU is needed").text).text
    assert "Paused: running steps finish" in said
    assert "Paused: finetune" in said
    assert "the GPU is needed" in said
    send(client, "/steer", intent="resume", stage="finetune", reason="done")
    assert learned.store.control.pauses() == []
    send(client, "/review", report_id=learned.report_id, decision="reject", reason="nonsense")
    assert learned.store.reports.get(learned.report_id).state == "buried"
    send(client, "/erase", report_id=learned.report_id, reason="the person asked for it")
    assert learned.store.reports.get(learned.report_id).state == "erased"
    entries = [(entry.actor, entry.action) for entry in learned.store.audit.entries(limit=4)]
    assert entries == [("local", "erase"), ("local", "reject"), ("local", "resume"), ("local", "pause")]


def test_a_review_goes_on_to_the_next_report_and_can_be_undone(client: TestClient, sqlite_store: Store) -> None:
    ids = learn(sqlite_store, *(flagged(id=f"a{number}", reason=f"Wrong {number}.") for number in range(3)))
    page = Page(client.get("/review?item=a1").text)
    assert [link["href"] for link in page.all("a") if "aria-current" in link][-1] == "/review?item=a1"
    assert sum("/review?item=" in (link["href"] or "") for link in page.all("a")) == 3
    assert [one.get("value") for one in page.all("input") if one.get("name") == "reason"] == [None]
    [back] = {one["value"] for one in page.all("input") if one.get("name") == "back"}
    assert back == "/review?item=a2"
    done = send(client, "/review", report_id="a1", decision="accept", reason="", back=back or "")
    assert done.url.params["item"] == "a2"
    assert "Your last decision: accepted a1" in " ".join(Page(done.text).text.split())
    assert sqlite_store.audit.entries(limit=1)[0].reason == "no reason given"
    undone = send(client, "/undo")
    assert undone.url.params["item"] == "a1"
    assert "Undone: the report is as it was" in undone.text
    assert sqlite_store.reviews.waiting().analyses == len(ids)
    assert send(client, "/undo").status_code == 404


def test_the_page_of_reviews_says_when_nothing_waits(client: TestClient) -> None:
    assert "Nothing waits for a review" in client.get("/review?item=gone").text


def test_a_link_cannot_put_words_on_a_page(learned: Learned, client: TestClient) -> None:
    assert "You won" not in client.get("/?did=You+won").text


def test_listings_turn_their_pages_and_keep_their_filters(client: TestClient, sqlite_store: Store) -> None:
    add(sqlite_store, *(flagged(category="style") for _ in range(30)), flagged(id="other", category="format"))
    first = Page(client.get("/reports?category=style&search=").text)
    [older] = [link["href"] or "" for link in first.all("a") if link.get("rel") == "next"]
    second = Page(client.get("/reports" + older).text)
    assert len(first.all("tr")) == 26
    assert len(second.all("tr")) == 6
    assert "other" not in first.text + second.text


def test_the_list_of_reports_tells_its_total_and_keeps_every_filter(client: TestClient, sqlite_store: Store) -> None:
    add(sqlite_store, *(flagged(severity="high", tenant="east") for _ in range(30)), flagged(id="other"))
    page = Page(client.get("/reports?severity=high&tenant=east&sort=severity").text)
    assert "Reports 30" in " ".join(page.text.split())
    assert "Page 1 of 2" in page.text
    [older] = [link["href"] or "" for link in page.all("a") if link.get("rel") == "next"]
    assert "severity=high&tenant=east&sort=severity" in older
    exports = [link["href"] or "" for link in page.all("a") if "download" in link]
    assert len(exports) == 2
    for address in exports:
        saved = client.get(address)
        assert saved.headers["cache-control"] == "no-store"
        assert len(saved.text.splitlines()) - address.startswith("/export?format=csv") == 30, address
    chosen = [one["name"] for one in page.all("input", "select") if one.get("value") == "east"]
    assert chosen == ["tenant"]
    assert any(one.keys() >= {"open"} for one in page.all("details"))


def test_selected_reports_are_decided_together_and_each_refusal_is_told(learned: Learned, client: TestClient) -> None:
    store = learned.store
    add(store, flagged(id="q1"), flagged(id="q2"))
    quarantine(store, "q1")
    quarantine(store, "q2")
    told = send(
        client, "/bulk", report_ids=["q1", "q2"], decision="accept", reason="from a trial", back="/reports?rows=100"
    )
    assert "Accepted all selected reports." in told.text
    assert (told.url.path, dict(told.url.params)["rows"]) == ("/reports", "100")
    assert {store.reports.get(one).state for one in ("q1", "q2")} == {"queued"}
    mixed = send(client, "/bulk", report_ids=[learned.report_id, "q1", "gone"], decision="reject", reason="<b>spam</b>")
    text = " ".join(Page(mixed.text).text.split())
    assert "Rejected: 1 of 3" in text
    assert "q1: report q1 is queued" in text
    assert "gone: no report" in text
    assert store.reports.get(learned.report_id).state == "buried"
    assert [(one.action, one.subject) for one in store.audit.entries(limit=1)] == [("reject", learned.report_id)]


def test_the_list_shows_the_evidence_that_its_filter_goes_by(client: TestClient, sqlite_store: Store) -> None:
    add(sqlite_store, flagged(id="looked-at"), flagged(id="waits"))
    sqlite_store.evidence.record("looked-at", Evidence.CLAIMED, "not in 3 answers of aligned-g000000")
    for shown, found, other in (("claimed", "looked-at", "waits"), ("unchecked", "waits", "looked-at")):
        page = client.get(f"/reports?evidence={shown}").text
        assert f'<td data-label="evidence">{shown}</td>' in page
        assert f"/reports/{found}" in page
        assert f"/reports/{other}" not in page
    assert "Evidence that the model gave this answer, unchecked: not looked at." in client.get("/reports/waits").text


def test_all_reports_of_a_filter_are_decided_in_batches_and_later_ones_are_left_alone(
    learned: Learned, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.web.console.bulk.AT_ONCE", 2)
    store, ids = learned.store, ["q1", "q2", "q3", "q4", "q5"]
    add(store, *(flagged(id=one, tenant="east") for one in ids))
    for one in ids[:4]:
        quarantine(store, one)
    listed = Page(client.get("/reports?tenant=east&rows=2").text)
    [address] = [link["href"] or "" for link in listed.all("a") if (link["href"] or "").startswith("/bulk-all")]
    page = Page(client.get(address).text)
    assert "Decide about 5 reports" in page.text
    assert "All that fit: tenant east." in " ".join(page.text.split())
    asked = {one["name"] or "": one["value"] or "" for one in page.all("input") if one.get("type") == "hidden"}
    add(store, flagged(id="late", tenant="east"))
    quarantine(store, "late")

    given = {**asked, "decision": "accept", "reason": "checked together"}
    assert client.post(address, data=given).status_code == 422  # it asks whether one is sure
    told, left = client.post(address, data={**given, "sure": "yes"}), []
    while again := {
        one["name"] or "": one["value"] or "" for one in Page(told.text).all("input") if one.get("type") == "hidden"
    }:
        left.append(again["after"])
        told = client.post(address, data=again)
    assert len(left) == 2
    text = " ".join(Page(told.text).text.split())
    assert "Accepted: 4 of 5" in text
    assert store.reports.get("late").state == "quarantined"
    assert {store.reports.get(one).state for one in ids} == {"queued"}
    decided = [one.subject for one in store.audit.entries() if one.reason == "checked together"]
    assert sorted(decided) == ids[:4]


def test_a_decision_about_all_reports_needs_a_filter_that_finds_some(learned: Learned, client: TestClient) -> None:
    assert "No report matches" in Page(client.get("/bulk-all?tenant=nowhere").text).text
    assert "Every report: no filter is set" in " ".join(Page(client.get("/bulk-all").text).text.split())
    refused = send(client, "/bulk-all", decision="erase", reason="x", sure="yes", shown_at="yesterday")
    assert refused.status_code == 422
    assert "decision" in Page(refused.text).text


def test_the_strengths_that_were_measured_stand_with_the_verdict(sqlite_store: Store, client: TestClient) -> None:
    passing = {"strength": 1.0, "accepted": True, "gain": 0.5, "kl_to_base": 0.25, "reasons": []}
    weaker = {
        "strength": 0.75,
        "accepted": False,
        "gain": 0.1,
        "kl_to_base": None,
        "reasons": ["it <fixes> too little"],
    }
    run = run_to_verdict(sqlite_store, figures={"strength": 1.0, "strengths": [passing, weaker]})
    page = client.get(f"/adapters/{run.generation}").text
    assert "strength 1, chosen: gain 0.5, 0.250 nats per token from the base model; passes" in page
    assert "strength 0.75: gain 0.1; fails: it &lt;fixes&gt; too little" in page


def test_a_trial_stands_on_the_overview_and_with_its_adapter(sqlite_store: Store, client: TestClient) -> None:
    run = run_to_verdict(sqlite_store)
    for path in ("/", "/adapters", f"/adapters/{run.generation}"):
        assert "On trial" not in client.get(path).text
    sqlite_store.trials.start(
        run.generation,
        mode=AdapterState.CANARY,
        share=0.1,
        concurrency=2,
        actor="erratad",
        at=utcnow() - timedelta(hours=5),
    )
    answered(sqlite_store, run.generation, 50, flags=1)
    answered(sqlite_store, 0, 450, flags=2)  # besides the report that the run learned from
    for path in ("/", "/adapters", f"/adapters/{run.generation}"):
        page = Page(client.get(path).text)
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        for said in ("It answers 10 % of the conversations", "1 of 50", "3 of 450", "No decision yet"):
            assert said in page.text, path
    assert "On trial" not in client.get("/adapters/0").text
    assert "End the trial" in client.get("/adapters").text


def test_unseen_characters_are_shown_as_codes_and_saved_as_they_were(client: TestClient, sqlite_store: Store) -> None:
    turned = "Pay \u2067eve\u2069 by \u200b⟨U+202E⟩."
    learn(sqlite_store, flagged(id="turned", reason=f"{turned}\u202e"))
    sqlite_store.reviews.accept("turned", actor="ann", reason=f"{turned}\u202e")
    shown = "Pay ⟨U+2067⟩eve⟨U+2069⟩ by ⟨U+200B⟩⟨U+27E8⟩U+202E⟩."
    for path in ("/reports", "/reports/turned", "/audit"):
        text = Page(client.get(path).text).text
        assert f"{shown}⟨U+202E⟩" in text
        assert not {"\u202e", "\u2067", "\u2069", "\u200b"} & set(text)
    csrf = re.search(r'name="csrf" value="([^"]+)"', client.get("/reports/turned").text)
    assert csrf is not None
    form = {"report_id": "turned", "decision": "correct", "analysis": shown, "correction": shown, "csrf": csrf[1]}
    answer = client.post("/review", data=form)
    assert answer.status_code == 200, answer.text
    saved = sqlite_store.reports.lesson("turned")
    assert saved is not None
    assert (saved.analysis, saved.correction) == (turned, turned)


def test_the_trends_show_days_without_data_as_such(learned: Learned, client: TestClient) -> None:
    answered(learned.store, 1, 200, flags=3)
    learned.store.trends.note_queue(12_345)
    text = " ".join(Page(client.get("/trends").text).text.split())
    assert "No data on 29 of 30 days." in text
    assert "1.5 %" in text
    assert "12,345" in text
    assert "No candidate was measured in these days." in text


def test_feedback_about_completions_is_listed_with_its_state(client: TestClient, sqlite_store: Store) -> None:
    short: dict[str, dict[str, str]] = {
        "down": {"rating": "down", "comment": f"Wrong. {HOSTILE}"},
        "edited": {"edit": "Canberra."},
        "asked": {"follow_up": "No, the capital."},
    }
    for name, said in short.items():
        document = {"id": name, "completion_id": f"chatcmpl-{name}", **said, "reporter": "ann", "tenant": "east"}
        sqlite_store.reports.add([(decode(json.dumps(document).encode()), Source(channel="http", principal="chat"))])
    add(sqlite_store, flagged(id="liked", rating="up"))
    html = client.get("/feedback").text
    page, text = Page(html), " ".join(Page(html).text.split())
    assert page.all("img") == []
    kinds = {"down": "comment", "edited": "edit", "asked": "follow-up", "liked": "thumb up"}
    for name, kind in kinds.items():
        state = "kept" if name == "liked" else "waiting"
        assert f'{name}</th><td>{kind}</td><td><span class="badge {state}">' in html, name
    for said in ("chatcmpl-edited", "by ann of chat, tenant east", "waiting (3)", HOSTILE):
        assert said in text
    kept = " ".join(Page(client.get("/feedback?state=kept").text).text.split())
    assert "liked" in kept
    assert "chatcmpl" not in kept
    assert "No feedback is in this state" in client.get("/feedback?state=given_up").text


def test_the_funnel_reads_with_few_reports_and_with_many(
    client: TestClient, sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = {ReportState.QUEUED: 99_973, ReportState.LESSON: 15, ReportState.RESOLVED: 12}
    monkeypatch.setattr(type(sqlite_store.reports), "counts", lambda _: dict.fromkeys(ReportState, 0) | many)
    text = " ".join(Page(client.get("/").text).text.split())
    assert "100,000 100 % all reports" in text
    assert "12 < 0.1 % 0 still failing" in text
    assert "99,973 waiting for analysis" in text


def test_a_promotion_is_decided_beside_its_evidence(sqlite_store: Store, client: TestClient) -> None:
    criteria = {
        "attacks": {"holds": False, "sentence": "resists 3 of 9 <untrained> attacks"},
        "holdout": {"holds": True, "sentence": "passes 4 of 5 held-out items"},
    }
    run = run_to_verdict(sqlite_store, figures={"criteria": criteria, "live_generation": 0})
    assert "/adapters/1/decision" in client.get("/adapters/1").text
    assert "/adapters/1/decision" in client.get("/").text
    page = client.get("/adapters/1/decision").text
    assert page.index("passes 4 of 5") < page.index("resists 3 of 9 &lt;untrained&gt;")
    fields = {"intent": "refuse", "generation": "1", "back": "/adapters/1"}
    assert send(client, "/steer", **fields, reason="").status_code == 422
    assert "will not go live" in send(client, "/steer", **fields, reason="it obeys attacks").text
    assert sqlite_store.adapters.get(run.generation).state == AdapterState.REJECTED
    assert "There is nothing to decide" in client.get("/adapters/1/decision").text
