"""The console in a real browser: the steps of an operator, on desktop and phone, in light and dark mode."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_core_python.selenium import Axe
from fastapi import FastAPI
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from daemon.config import Config
from daemon.intake.stage import FeedbackIntake
from daemon.records import AdapterState, IntentKind, ReportState
from daemon.store import Store
from daemon.store.adapters import Fulfilled
from daemon.web.app import create_app
from deploy.docs import pictures
from tests.fixtures.browser import DESKTOP, PHONE, Browser, Servers
from tests.fixtures.history import try_out
from tests.fixtures.traffic import answered
from tests.fixtures.web import Condition

TOKEN = "a-good-token"
SERIOUS = {"serious", "critical"}
PAGES = [
    "/", "/reports", "/reports?search=nothing-fits", "/bulk-all?state=lesson", "/reports/fb-7003", "/review",
    "/feedback", "/adapters", "/adapters/3", "/adapters/4", "/adapters/99", "/adapters/3/decision",
    "/adapters/4/decision", "/runs", "/trends", "/settings", "/audit",
]  # fmt: skip
DAY, NIGHT = (DESKTOP, "light"), (PHONE, "dark")


class Console:
    """A person's actions in the console."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.driver = browser.driver
        self.address = address

    def open(self, path: str) -> None:
        self.driver.get(self.address + path)

    def sign_in(self) -> None:
        self.open("/")
        self.one("#token").send_keys(TOKEN, Keys.ENTER)
        self.until(lambda: self.text("h1") == "Overview")

    def one(self, css: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        return self.one(css).text

    def follow(self, words: str) -> None:
        self.driver.find_element(By.PARTIAL_LINK_TEXT, words).click()

    def until(self, condition: Callable[[], Any], seconds: float = 15) -> None:
        WebDriverWait(self.driver, seconds, ignored_exceptions=[Exception]).until(lambda _: condition())


@pytest.fixture
def app(history: Store, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    monkeypatch.setenv("ERRATAD_TEST_TOKEN", TOKEN)
    config = make_config(
        http={"tokens": [{"name": "ann", "role": "admin", "token_env": "ERRATAD_TEST_TOKEN"}]},
        store={"url": "postgresql://erratad:hunter2@db/erratad"},  # only displayed; the store is the fixture
    )
    health: Any = Condition()
    intake = FeedbackIntake(reports=history.reports, config=config.intake)
    return create_app(store=history, intake=intake, config=config, health=health)


@pytest.fixture
def console(browser: Browser, served: Servers, app: FastAPI) -> Console:
    return Console(browser, served(app))


@pytest.mark.parametrize(("size", "scheme"), [DAY, NIGHT], ids=["desk-light", "phone-dark"])
def test_an_operator_reviews_rolls_back_and_finds_it_in_the_audit_log(
    browser: Browser, console: Console, history: Store, size: tuple[int, int], scheme: str
) -> None:
    browser.look_like(size, scheme)
    console.sign_in()
    assert "aligned-g000003" in console.text("main")
    console.follow("Reports")
    console.one("input[name=search]").send_keys("case 3)", Keys.ENTER)
    console.until(lambda: "fb-7003" in console.text("table"))
    assert "fb-7004" not in console.text("table")
    console.follow("fb-7003")
    assert "HACKED" in console.text(".turn.flagged")
    assert "Training examples from this report" in console.text("main")

    console.follow("Review")
    [first, *_] = history.reviews.quarantined(limit=5)
    console.one("body").send_keys("j")
    console.until(lambda: first.id not in console.text("#item"))
    console.one("body").send_keys("k")
    console.until(lambda: first.id in console.text("#item"))
    console.one("body").send_keys("a")
    console.until(lambda: "Accepted." in console.text("main"))
    assert history.reports.get(first.id).state == ReportState.QUEUED
    console.one("body").send_keys("u")
    console.until(lambda: "Undone" in console.text("main"))
    assert first.id in console.text("#item")
    assert history.reports.get(first.id).state == ReportState.QUARANTINED
    console.one("body").send_keys("a")
    console.until(lambda: "Accepted." in console.text("main"))

    console.follow("Adapters")
    console.one(".actions summary").click()
    console.one(".actions input[name=reason]").send_keys("users complain")
    console.one(".actions form button").click()
    console.until(lambda: "Rollback requested" in console.text("main"))
    assert "pending" in console.text("#requests")
    _carry_out(history)
    console.until(lambda: "rolled back by the daemon" in console.text("#requests"))  # without a reload

    console.follow("Audit log")
    rows = [row.text for row in console.driver.find_elements(By.CSS_SELECTOR, "tbody tr")]
    assert any("ann" in row and "rollback" in row and "users complain" in row for row in rows)
    assert any("ann" in row and "accept" in row and first.id in row for row in rows)
    assert browser.complaints() == []


def _carry_out(store: Store) -> None:
    """Fulfil the pending rollback like the promotion stage."""
    intent = store.intents.pending(IntentKind.ROLLBACK)
    assert intent is not None
    assert intent.target_generation == 1
    fulfilled = Fulfilled(intent_id=intent.id, outcome="rolled back by the daemon")
    store.adapters.roll_back(1, expected_live=3, actor=intent.actor, reason=intent.reason, fulfils=fulfilled)


def test_no_page_breaks_a_serious_rule_of_accessibility_or_scrolls_sideways(browser: Browser, console: Console) -> None:
    faults = []
    browser.look_like(*NIGHT)
    console.open("/login")
    faults += _faults(console, "/login")
    console.sign_in()
    for path in PAGES:
        browser.look_like(*DAY)
        console.open(path)
        faults += [f"at a desk, by day: {fault}" for fault in _faults(console, path)]
        browser.look_like(*NIGHT)
        faults += [f"on a phone, by night: {fault}" for fault in _faults(console, path)]
    assert faults == []


def _faults(console: Console, path: str) -> list[str]:
    found = Axe().run(console.driver)["violations"]
    faults = [
        f"{path}: {rule['id']}: {node['html'][:120]}"
        for rule in found
        if rule["impact"] in SERIOUS
        for node in rule["nodes"]
    ]
    script = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    wider = console.driver.execute_script(script)
    return [*faults, f"{path}: {wider} px wider than the screen"] if wider > 0 else faults


@pytest.mark.parametrize(("size", "scheme"), [DAY, NIGHT])
def test_an_operator_watches_a_trial_and_ends_it(
    browser: Browser, console: Console, history: Store, size: tuple[int, int], scheme: str
) -> None:
    try_out(history)
    browser.look_like(size, scheme)
    console.sign_in()
    for path in ("/", "/adapters/4", "/adapters"):
        console.open(path)
        assert "2 of 420" in console.text("#trial")
        assert _faults(console, path) == []
    answered(history, 4, 80)
    console.until(lambda: "2 of 500" in console.text("#trial"))  # without a reload
    asks = console.driver.find_elements(By.CSS_SELECTOR, "details.ask")
    [end] = [one for one in asks if one.text.startswith("End the trial")]
    end.find_element(By.TAG_NAME, "summary").click()
    end.find_element(By.NAME, "reason").send_keys("users complain")
    end.find_element(By.TAG_NAME, "button").click()
    console.until(lambda: "On trial" not in console.text("main"))
    assert history.adapters.get(4).state == AdapterState.REJECTED
    entry = history.audit.entries(limit=1)[0]
    assert (entry.actor, entry.subject, entry.reason) == ("ann", "aligned-g000004", "users complain")
    assert browser.complaints() == []


@pytest.mark.parametrize("path", ["/", "/reports/fb-7003"], ids=["with-live-regions", "without"])
def test_a_page_that_lost_its_daemon_says_since_when_and_comes_back(
    console: Console, served: Servers, app: FastAPI, path: str
) -> None:
    console.sign_in()
    console.open(path)
    line = console.one("#connection")
    assert (line.get_attribute("role"), line.get_attribute("aria-live"), line.text) == ("status", "polite", "")
    served.stop()
    console.until(lambda: re.fullmatch(r"Stale since \d\d:\d\d:\d\d UTC: the daemon does not answer\.", line.text))
    assert _faults(console, path) == []
    served(app, port=int(console.address.rpartition(":")[2]))
    console.until(lambda: line.text.startswith("Up to date again since "))
    assert "lost" not in (line.get_attribute("class") or "")


def test_a_page_whose_session_has_ended_says_so(console: Console) -> None:
    console.sign_in()
    console.driver.delete_all_cookies()
    console.until(lambda: "reload the page to sign in" in console.text("#connection"))


def test_a_reviewers_words_replace_the_analysis(console: Console, history: Store) -> None:
    console.sign_in()
    [(report, _), *_] = history.reviews.analyses(limit=1)
    console.open(f"/review?item={report.id}")
    box = console.one("#item [name=analysis]")
    box.clear()
    box.send_keys("It names the largest city and not the capital.")
    console.one("#item button[value=correct]").click()
    console.until(lambda: "Corrected" in console.text("main"))
    lesson = history.reports.lesson(report.id)
    assert lesson is not None
    assert (lesson.analysis, lesson.reviewed_by) == ("It names the largest city and not the capital.", "ann")


def test_on_a_phone_the_menu_shows_where_one_is(browser: Browser, console: Console) -> None:
    browser.look_like(*NIGHT)
    console.sign_in()
    console.open("/audit")
    box = console.one("nav [aria-current]").rect
    assert 0 <= box["x"] <= PHONE[0] - box["width"]


def test_the_documentations_pictures_are_taken_of_pages_that_exist(console: Console, tmp_path: Path) -> None:
    console.sign_in()
    pictures.take(console.driver, console.address, tmp_path)
    titles = []
    for name, (page, height) in pictures.SHOWN.items():
        header = (tmp_path / f"{name}.png").read_bytes()[:24]
        assert struct.unpack(">II", header[16:]) == (pictures.WIDTH, height)
        console.open(page)
        titles.append(console.text("h1"))
    assert titles == ["Overview", "Decide about aligned-g000001", "Reports 22"]


def test_settings_show_no_secret(console: Console) -> None:
    console.sign_in()
    console.open("/settings")
    assert "hunter2" not in console.driver.page_source
    assert "postgresql://erratad:********@db/erratad" in console.text("main")


def test_signing_out_ends_it(console: Console) -> None:
    console.sign_in()
    console.one("form[action='/logout'] button").click()
    console.until(lambda: console.text("h1") == "Sign in")
    console.open("/audit")
    assert console.text("h1") == "Sign in"
