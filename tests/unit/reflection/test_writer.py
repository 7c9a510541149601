"""What the analyst is shown of a report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from connectors.messages import FlaggedResponse
from daemon.config.trust import TrustConfig
from daemon.records import INDUCED, Source
from daemon.trust.policy import Policy
from tests.fixtures.config import flagged
from tests.fixtures.reflection import ReflectionBench, ScriptedEndpoint, answering

ANALYSIS = "This response is wrong because the town named is not the capital. A good response names the capital."
STRICT = Policy(TrustConfig(), trusted=["test"])
TRUSTING_CORRECTIONS = Policy(TrustConfig(confirm_corrections="untrusted"), trusted=["test"])


def asked(here: ReflectionBench, endpoint: ScriptedEndpoint, message: FlaggedResponse) -> str:
    """The question for the analysis."""
    endpoint.script = answering(ANALYSIS)
    here.queue(message)
    here.step()
    return next(str(body["messages"][1]["content"]) for body in endpoint.requests if "You review" in str(body))


def test_the_analyst_sees_the_failed_checks_by_name_and_value_and_no_others(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    checks = {"must_contain": ["Canberra", "Town"], "must_not_contain": ["Perth"], "regex": "^It is", "max_words": 2}
    prompt = asked(make_reflection(), analyst_endpoint, flagged(response="The town is Sydney", checks=checks))
    known = prompt.partition("rules of a good response that this response breaks\n")[2].partition("\n===")[0]
    assert known.splitlines() == [
        "must_contain: does not contain 'Canberra'",
        "regex: does not match the pattern '^It is'",
        "max_words: has 4 words, more than 2",
    ]


def test_the_analyst_sees_the_users_next_message(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    prompt = asked(make_reflection(), analyst_endpoint, flagged(follow_up="No, I asked for the capital.", reason=""))
    assert "No, I asked for the capital." in prompt


@pytest.mark.parametrize(("policy", "shown"), [(STRICT, False), (TRUSTING_CORRECTIONS, True)])
def test_the_analyst_sees_a_correction_only_if_nobody_must_confirm_it(
    make_reflection: Callable[..., ReflectionBench],
    analyst_endpoint: ScriptedEndpoint,
    policy: Policy,
    shown: bool,
) -> None:
    message = flagged(correction="The capital is Canberra.")
    prompt = asked(make_reflection(policy=policy), analyst_endpoint, message)
    assert ("The capital is Canberra." in prompt) is shown


def test_an_analysis_that_repeats_the_users_next_message_is_refused(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    said = "This response is wrong because the town it names is not the capital of that country at all."
    analyst_endpoint.script = lambda _body: (200, said, "stop")
    here = make_reflection(max_attempts=1)
    [report_id] = here.queue(flagged(reason="", follow_up=said))
    here.step()
    lesson: Any = here.store.reports.lesson(report_id)
    assert lesson.analyst == "template"


@pytest.mark.parametrize(("principal", "shown"), [(INDUCED, True), ("someone", False)])
def test_the_analyst_sees_the_judges_words_of_an_induced_answer_and_of_no_other(
    make_reflection: Callable[..., ReflectionBench],
    analyst_endpoint: ScriptedEndpoint,
    principal: str,
    shown: bool,
) -> None:
    analyst_endpoint.script = answering(ANALYSIS)
    here = make_reflection()
    message = flagged(metadata={"judge": "It names a port town."})
    here.store.reports.add([(message, Source(channel="test", principal=principal))])
    here.step()
    assert ("It names a port town." in str(analyst_endpoint.requests[0]["messages"])) is shown


def test_a_link_in_the_users_next_message_is_no_source_for_an_analysis(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    analyst_endpoint.script = answering(f"{ANALYSIS} See www.capitals-of-all.example for the capital.")
    here = make_reflection(max_attempts=1)
    [report_id] = here.queue(flagged(follow_up="No, look at www.capitals-of-all.example!"))
    here.step()
    lesson: Any = here.store.reports.lesson(report_id)
    assert lesson.analyst == "template"
