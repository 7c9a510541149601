"""Lines of erased reports leave the files of a data directory; all others stay as they are."""

from __future__ import annotations

import json
from pathlib import Path

from daemon.artifacts.run_folder import HOLDOUT_FILE, MANIFEST_FILE, REPLAY_FILE, TRAIN_FILE, load_manifest
from daemon.artifacts.scrub import scrub_lesson_answers, scrub_replay, scrub_runs, search
from tests.unit.artifacts.test_run_folder import WRITTEN

SECRET = "You work for the clinic of Doctor Ignatius."


def line(**values: object) -> str:
    return json.dumps(values) + "\n"


def run_folder(runs: Path) -> Path:
    folder = runs / "g000001"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / TRAIN_FILE).write_text(line(id="x", report_id="gone", completion="a") + line(id="y", report_id="kept"))
    (folder / HOLDOUT_FILE).write_text(line(id="also-gone") + line(id="held"))
    system = {"role": "system", "content": f"Answer well.\n\n{SECRET}"}
    (folder / REPLAY_FILE).write_text(
        line(id="1", report_id=None, messages=[system]) + line(id="2", report_id=None, messages=[])
    )
    files = {
        name: {"sha256": "0" * 64, "lines": 2, "report_ids": []} for name in (TRAIN_FILE, HOLDOUT_FILE, REPLAY_FILE)
    }
    unusable = [{"report_id": "gone", "reason": "too_long", "detail": SECRET}]
    (folder / MANIFEST_FILE).write_text(json.dumps(WRITTEN | {"files": files, "unusable": unusable}))
    (folder / "train.log").write_text(f"loss 1\n{SECRET}\n")
    return folder


def test_a_run_folder_loses_the_lines_and_its_manifest_says_how_many(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    gone = scrub_runs(tmp_path, ["gone", "also-gone"], lambda text: text.replace(SECRET, "-"), {SECRET})
    assert gone == 3
    assert [json.loads(one)["id"] for one in (folder / TRAIN_FILE).read_text().splitlines()] == ["y"]
    assert [json.loads(one)["id"] for one in (folder / HOLDOUT_FILE).read_text().splitlines()] == ["held"]
    assert [json.loads(one)["id"] for one in (folder / REPLAY_FILE).read_text().splitlines()] == ["2"]
    assert (folder / "train.log").read_text() == "loss 1\n-\n"
    assert not (folder / "checkpoints").exists()
    manifest = load_manifest(folder)  # its checksums fit again
    assert manifest.erased == {TRAIN_FILE: 1, HOLDOUT_FILE: 1, REPLAY_FILE: 1}
    assert manifest.files[TRAIN_FILE].lines == 1
    assert manifest.unusable[0].detail == ""
    assert search(tmp_path, [SECRET.encode()]) == (5, {})


def test_a_run_without_the_report_is_not_touched(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert scrub_runs(tmp_path, ["another"], lambda text: text, ()) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert (folder / "checkpoints").exists()


def test_cached_answers_below_the_system_message_go(tmp_path: Path) -> None:
    for name, content in (("a", SECRET), ("b", "Another one.")):
        (tmp_path / "base").mkdir(exist_ok=True)
        messages = [{"role": "system", "content": content}, {"role": "user", "content": "Hello"}]
        (tmp_path / "base" / f"{name}.json").write_text(json.dumps({"messages": messages, "text": "Hi", "ends": True}))
    assert scrub_replay(tmp_path, {SECRET}) == 1
    assert [path.name for path in tmp_path.glob("*/*")] == ["b.json"]


def test_cached_answers_to_the_question_of_a_report_go(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    for name, entry in (("a", {"report_id": "one"}), ("b", {"report_id": "two"}), ("c", {})):
        (tmp_path / "base" / f"{name}.json").write_text(
            json.dumps({"messages": [], "text": "Hi", "ends": True, **entry})
        )
    assert scrub_lesson_answers(tmp_path, ["one", "three"]) == 1
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["b.json", "c.json"]


def test_a_search_looks_into_every_file_but_weights(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("deep/database-wal", "weights.safetensors", "empty"):
        (tmp_path / name).write_bytes(b"" if name == "empty" else b"\x00" + SECRET.encode())
    looked, found = search(tmp_path, [SECRET.encode(), b"absent"])
    assert (looked, found) == (2, {tmp_path / "deep/database-wal": [SECRET.encode()]})
