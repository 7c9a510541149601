"""The demo, once and whole, from the wheel: real broker, vLLM and training of the 135M model, real swap under load."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from daemon.evaluation.comparison import PROBE_SUITES
from tests.fixtures.wheel import Program


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_demo_learns_from_the_flagged_answers_and_swaps_without_a_failed_request(
    real_model: Path, installed_erratad: Program, tmp_path: Path
) -> None:
    cache = {name: os.environ[name] for name in ("ERRATAD_CACHE",) if name in os.environ}
    demo = installed_erratad("demo", "--json", "--data-dir", tmp_path / "demo", **cache)
    assert demo.returncode == 0, f"{demo.stderr}\n{_log_end(tmp_path)}"
    summary = json.loads(demo.stdout.splitlines()[-1])
    assert summary["gate"]["accepted"]
    assert summary["live_adapter"] == "aligned-g000001"
    assert summary["lessons"] == summary["reports"] == summary["flagged"]
    assert summary["fixed"] == summary["held_out"]["fixed"] + summary["trained"]["fixed"] >= 1
    assert summary["held_out"]["items"] >= 12
    assert summary["held_out"]["fixed"] >= 8
    assert summary["held_out"]["items"] + summary["trained"]["items"] <= summary["flagged"]
    assert next(one["held_out"] for one in summary["before_after"]) is True
    assert summary["not_reproduced"] == sum(one["outcome"] == "not-reproduced" for one in summary["before_after"])
    assert 0 < summary["seconds_from_flag_to_live"] < summary["seconds"]
    by_kind = summary["examples_by_kind"]
    assert min(by_kind[kind] for kind in ("analysis", "correction", "replay")) > 0
    assert summary["examples"] == sum(by_kind.values())
    assert summary["train_seconds"] > 0
    assert {suite: counts["items"] for suite, counts in summary["probes"].items()} == dict.fromkeys(PROBE_SUITES, 6)
    _assert_clean_swap(summary)
    for item in summary["before_after"]:
        assert item["generation"] == "aligned-g000001"


def _assert_clean_swap(summary: dict[str, object]) -> None:
    requests = summary["requests"]
    assert isinstance(requests, dict)
    assert requests["failed"] == 0, requests["errors"]
    assert requests["across_swap"] >= 1
    assert set(requests["by_generation"]) == {"aligned-g000000", "aligned-g000001"}
    assert sum(requests["by_generation"].values()) == requests["served"]
    assert isinstance(summary["swap_seconds"], float)
    assert summary["swap_seconds"] > 0


def _log_end(folder: Path) -> str:
    log = folder / "demo" / "erratad.log"
    return log.read_text(errors="replace")[-4000:] if log.exists() else ""
