"""Small derivations on records."""

from __future__ import annotations

import pytest

from daemon.adapter_names import adapter_name
from daemon.records import (
    Adapter,
    AdapterState,
    Report,
    ReportState,
    Source,
    served_name,
    utcnow,
)
from tests.fixtures.config import flagged


def test_adapter_names_sort_as_their_generations() -> None:
    names = [adapter_name("aligned", generation) for generation in (2, 17, 999_999)]
    assert names == sorted(names) == ["aligned-g000002", "aligned-g000017", "aligned-g999999"]


@pytest.mark.parametrize(("generation", "name"), [(0, "base"), (17, "aligned-g000017")])
def test_the_base_generation_is_served_under_the_base_models_name(generation: int, name: str) -> None:
    now = utcnow()
    adapter = Adapter(
        generation=generation,
        name=adapter_name("aligned", generation),
        state=AdapterState.LIVE,
        run_id=None,
        created_at=now,
        updated_at=now,
    )
    assert served_name(adapter, "base") == name


@pytest.mark.parametrize(
    ("roles", "expected"), [(["user", "assistant", "user", "tool"], "2"), (["system", "tool"], "1"), (["user"], "0")]
)
def test_a_reports_prompt_is_its_last_user_message_or_else_its_last(roles: list[str], expected: str) -> None:
    messages = [{"role": role, "content": str(number)} for number, role in enumerate(roles)]
    now = utcnow()
    report = Report(
        id="one",
        state=ReportState.QUEUED,
        flagged=flagged(messages=messages),
        source=Source(channel="http"),
        received_at=now,
        updated_at=now,
    )
    assert report.prompt_text == expected


def test_the_last_question_is_the_users_text_also_in_parts() -> None:
    message = flagged(messages=[{"role": "user", "content": ["a", "b"]}, {"role": "tool", "content": "c"}])
    now = utcnow()
    source = Source(channel="http")
    report = Report(id="r", state=ReportState.QUEUED, flagged=message, source=source, received_at=now, updated_at=now)
    assert report.prompt_text == "a\nb"
