"""The tables on capacity are those of the page, and the simulation loses no report and gives users the first place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks import capacity
from tests.benchmarks.capacity import MODELS, Model, replicas, run_time, simulate

PAGE = Path(__file__).parents[3] / "docs" / "capacity.md"
SMALL, LARGE = MODELS[0], MODELS[-1]


@pytest.mark.parametrize("title", capacity.tables())
def test_the_page_has_the_tables_that_the_script_prints(title: str) -> None:
    assert f"**{title}**\n\n{capacity.tables()[title]}\n" in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_no_speed_is_above_what_the_hardware_can_do(model: Model) -> None:
    speed = model.speed()
    flops = capacity.PEAK_FLOPS * model.gpus
    assert speed.prompt * 2 * model.parameters < flops
    assert speed.training * 4 * model.parameters < flops
    one_at_a_time = capacity.MEMORY_BYTES_PER_S * model.gpus / (2 * model.parameters)
    assert speed.answer < one_at_a_time * capacity.MOST_ANSWERS
    assert speed.answer < speed.prompt


def test_a_model_that_leaves_no_room_for_answers_needs_more_gpus() -> None:
    crowded, roomy = replace(LARGE, gpus=2), LARGE
    assert crowded.speed().answer < roomy.speed().answer / 2


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_ten_times_the_users_need_ten_times_the_servers(model: Model) -> None:
    assert replicas(model, 10_000) == pytest.approx(10 * replicas(model, 1_000), rel=0.1)


def test_what_the_idle_time_does_not_suffice_for_waits() -> None:
    few, many = (simulate(SMALL, answers_per_s=100, reports_per_day=count) for count in (1e5, 1e8))
    assert few.looked_at == pytest.approx(1, abs=0.01)
    assert many.looked_at < 0.5
    assert many.wait_hours > few.wait_hours
    assert many.trained <= many.looked_at


def test_a_run_takes_no_more_reports_than_it_may() -> None:
    runs = capacity.DAYS
    reports = 10_000 * capacity.DAYS * (1 - capacity.DUPLICATES)
    outcome = simulate(SMALL, answers_per_s=1_000, reports_per_day=10_000)
    assert outcome.trained == pytest.approx(500 * runs / reports, rel=0.02)


def test_a_run_with_more_lessons_or_fewer_servers_takes_longer() -> None:
    assert sum(run_time(SMALL, 500, servers=1)) > sum(run_time(SMALL, 50, servers=1))
    slow, fast = run_time(SMALL, 500, servers=1), run_time(SMALL, 500, servers=2)
    assert (slow.questions, slow.gate) == pytest.approx((2 * fast.questions, 2 * fast.gate))
    assert slow.training == fast.training
