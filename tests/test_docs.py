"""The documentation: links lead somewhere, and the reference knows every key and every series."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from daemon import metrics
from daemon.config import Config
from deploy.docs import build, reference
from tests.test_repository import keys_of

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def rows(tables: str) -> dict[str, list[str]]:
    """The cells after the first one, by the name in the first one."""
    found = {}
    for line in tables.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and (name := re.fullmatch(r"`(.+)`", cells[0])):
            found[name[1]] = cells[1:]
    return found


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_of_the_repository_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text()):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{target} of {page.name}"
        assert not anchor or anchor in anchors(file), f"{target}#{anchor} of {page.name}"


def test_the_reference_has_every_key_with_its_explanation() -> None:
    found = rows(reference.configuration())
    sections = {name for name in Config.model_fields if f"{name}." in "".join(f"{key}." for key in keys_of(Config))}
    leaves = set(keys_of(Config)) - (sections - found.keys())
    assert found.keys() == leaves
    assert [key for key, cells in found.items() if not cells[-1]] == []


def test_the_reference_tells_type_default_and_bounds() -> None:
    found = rows(reference.configuration())
    assert found["training.rank"][:2] == ["integer, > 0", "`16`"]
    assert found["model.path"][:2] == ["path", "required"]
    assert found["storage.keep_runs_days"][:2] == ["number or `null`, > 0", "`90.0`"]
    assert found["serving.mode"][0] == "`managed`, `attached`"


def test_the_reference_has_every_series_with_the_values_of_its_labels() -> None:
    found = rows(reference.metric_tables())
    for metric in (value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)):
        [family] = metric.describe()
        [name] = {family.name, f"{family.name}_total", f"{family.name}_info"} & found.keys()
        kind, labels, meaning = found[name]
        assert (kind, meaning) == (family.type, family.documentation)
        for label, values in metrics.CLOSED_SETS.get(metric, {}).items():
            assert f"`{label}`: " in labels
            assert {str(value) for value in values} <= set(re.findall(r"`([^`]+)`", labels)), name


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[a page](gone.md)", "page does not exist"),
        ("[a heading](#gone)", "anchor does not exist"),
        ("![a picture](images/gone.png)", "images/gone.png leads to no file"),
        ("no page of the navigation", "quickstart.md leads to no file"),
    ],
)
def test_a_build_fails_on_what_is_missing(tmp_path: Path, text: str, problem: str) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text(f"# Home\n\n{text}\n")
    with pytest.raises(SystemExit, match=problem):
        build.build(docs, tmp_path / "built")
