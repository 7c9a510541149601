"""What the teacher expects: of the right tokens, without the adapter, computed once, and the same after a kill."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from daemon.training.batches import Encoded, Objective, Share, TrainingSet
from daemon.training.collator import Collator
from daemon.training.drift import ROWS, TOKENS, Drift
from daemon.training.losses import Batch, batch_loss, divergence, kl, log_probs
from daemon.training.teacher import TeacherCache, kept_tokens
from tests.fixtures.tiny_peft import VOCABULARY, change, direct, tiny_peft

pytestmark = pytest.mark.filterwarnings("ignore")
GO = threading.Event()
ROW = Encoded(prompt=(5, 6, 7), completion=(11, 12, 13), teacher=(8,), objective=Objective.TEACHER)
ROWS_TO_TEACH = (
    ROW,
    Encoded(prompt=(5,), completion=(14,), teacher=tuple(range(20, 33)), objective=Objective.TEACHER),
    Encoded(prompt=(40, 41), completion=(15, 16, 17, 18, 19), teacher=(42, 43, 44), objective=Objective.TEACHER),
)
BLAMED = Encoded(prompt=(5, 6), completion=(21, 22, 23), teacher=(5, 6, 70, 71), objective=Objective.HINDSIGHT)


def _cache(folder: Path, *rows: Encoded, top: int | None = None, batch_tokens: int = 60) -> TeacherCache:
    return TeacherCache(folder, rows, batch_tokens=batch_tokens, top=top)


def _filled(folder: Path, *rows: Encoded, model: Any = None, **options: Any) -> TeacherCache:
    cache = _cache(folder, *rows, **options)
    assert cache.fill(model or tiny_peft(changed=True), pad_id=0, stop=GO)
    return cache


def test_the_teacher_is_the_base_model_under_its_own_prompt(tmp_path: Path) -> None:
    model = tiny_peft(changed=True).train()
    cache = _filled(tmp_path, *ROWS_TO_TEACH, model=model)  # one padded batch of prompts with 1, 13 and 3 tokens

    for row in ROWS_TO_TEACH:
        found = cache.of(row)["log_probs"]
        assert found.dtype == torch.half
        torch.testing.assert_close(found.float(), direct(model, row.teacher, row.completion), rtol=2e-3, atol=2e-3)
    assert model.train().training


def test_the_student_and_the_teacher_meet_at_the_same_token(tmp_path: Path) -> None:
    model = tiny_peft(changed=True)
    cache = _filled(tmp_path, *ROWS_TO_TEACH, model=model)
    share = Share(step=0, rows=ROWS_TO_TEACH, total=3)
    inputs = Collator(0, cache)([share])
    del inputs["step"], inputs["total"]
    batch = Batch.take(inputs)
    logits = model.eval()(**inputs).logits[:, :-1]
    found = batch_loss(logits, batch, alpha=0.5, ratio_limit=2.0, base=lambda _: torch.empty(0))

    expected = sum(
        float(
            divergence(
                direct(model, row.prompt, row.completion, base=False), direct(model, row.teacher, row.completion), 0.5
            ).mean()
        )
        for row in ROWS_TO_TEACH
    )
    assert expected > 0.1
    assert found.item() == pytest.approx(expected, rel=5e-3)


def test_a_student_that_sees_the_teachers_prompt_learns_nothing(tmp_path: Path) -> None:
    model = tiny_peft()  # a new adapter changes nothing
    rows = tuple(replace(row, teacher=row.prompt) for row in ROWS_TO_TEACH)
    inputs = Collator(0, _filled(tmp_path, *rows, model=model))([Share(step=0, rows=rows, total=3)])
    del inputs["step"], inputs["total"]
    batch = Batch.take(inputs)
    loss = batch_loss(
        model.eval()(**inputs).logits[:, :-1], batch, alpha=0.5, ratio_limit=2.0, base=lambda _: torch.empty(0)
    )
    loss.backward()
    gradients = [weight.grad.abs().max() for weight in model.parameters() if weight.grad is not None]
    assert loss.item() == pytest.approx(0.0, abs=1e-5)
    assert float(torch.stack(gradients).max()) < 2e-3  # float16 in the files


def test_the_adapter_and_the_pass_change_nothing_of_it(tmp_path: Path) -> None:
    model = tiny_peft()
    before = {
        path.name: path.read_bytes()
        for path in _files(_filled(tmp_path / "a", ROW, BLAMED, model=model), tmp_path / "a")
    }
    change(model)
    after = {
        path.name: path.read_bytes()
        for path in _files(_filled(tmp_path / "b", ROW, BLAMED, model=model), tmp_path / "b")
    }
    assert before == after
    assert len(before) == 2


def _files(_cache: TeacherCache, folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_after_a_kill_only_what_is_missing_is_computed_and_it_is_the_same(tmp_path: Path) -> None:
    model, asked = tiny_peft(changed=True), []
    model.register_forward_pre_hook(lambda *_: asked.append(None))
    rows = [*ROWS_TO_TEACH, BLAMED]
    _filled(tmp_path, *rows, model=model, batch_tokens=10)
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    passes = len(asked)
    assert len(whole) == 4
    assert passes == 5  # hindsight needs two

    (tmp_path / max(whole)).unlink()
    _filled(tmp_path, *rows, model=model, batch_tokens=10)
    assert len(asked) - passes in {1, 2}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole


def test_a_stop_ends_the_pass_and_processes_divide_it(tmp_path: Path) -> None:
    stopped = threading.Event()
    stopped.set()
    model = tiny_peft()
    assert not _cache(tmp_path, *ROWS_TO_TEACH, batch_tokens=10).fill(model, pad_id=0, stop=stopped)
    assert not list(tmp_path.glob("*"))
    counts = []
    for rank in range(2):
        assert _cache(tmp_path, *ROWS_TO_TEACH, batch_tokens=10).fill(model, pad_id=0, stop=GO, rank=rank, ranks=2)
        counts.append(len(list(tmp_path.iterdir())))
    assert counts == [2, 3]


def test_the_likeliest_tokens_are_kept_where_the_vocabulary_is_too_large(tmp_path: Path) -> None:
    whole, part = (_filled(tmp_path, *ROWS_TO_TEACH, top=top).of(ROW) for top in (None, 60))
    indices = part["indices"].long()
    assert part["log_probs"].shape == (3, 61)
    torch.testing.assert_close(part["log_probs"][:, :60], whole["log_probs"].gather(-1, indices))
    torch.testing.assert_close(part["log_probs"].float().exp().sum(-1), torch.ones(3), rtol=1e-2, atol=1e-2)
    student = direct(tiny_peft(changed=True), ROW.prompt, ROW.completion, base=False)
    inputs = Collator(0, _filled(tmp_path, ROW, top=60))([Share(step=0, rows=(ROW,), total=1)])
    teacher = Batch.take(inputs).teacher
    assert teacher is not None
    near = divergence(teacher.of_student(student), teacher.log_probs, 0.5)
    torch.testing.assert_close(
        near, divergence(student, log_probs(whole["log_probs"].float()), 0.5), rtol=0.05, atol=1e-3
    )


def test_the_whole_vocabulary_is_kept_on_a_cpu_within_the_bound() -> None:
    def kept(*, on_cpu: bool, cache_bytes: int) -> int | None:
        return kept_tokens([*ROWS_TO_TEACH, ROW, BLAMED], vocabulary=100, on_cpu=on_cpu, cache_bytes=cache_bytes, top=7)

    assert kept(on_cpu=True, cache_bytes=9 * 100 * 2) is None  # 9 different tokens, hindsight keeps no distribution
    assert kept(on_cpu=True, cache_bytes=9 * 100 * 2 - 1) == 7
    assert kept(on_cpu=False, cache_bytes=10**9) == 7


def test_a_complaint_blames_tokens_and_praises_none(tmp_path: Path) -> None:
    model = tiny_peft(changed=True)
    found = _filled(tmp_path, BLAMED, model=model).of(BLAMED)
    tokens = torch.tensor(BLAMED.completion)[:, None]
    told, plain = (
        direct(model, prompt, BLAMED.completion).gather(-1, tokens)[:, 0] for prompt in (BLAMED.teacher, BLAMED.prompt)
    )

    torch.testing.assert_close(found["advantage"], (told - plain).clamp(-5, 0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["sampled"], plain, rtol=1e-4, atol=1e-4)
    assert (found["advantage"] < 0).any()
    assert (found["advantage"] == 0).any() or bool((told < plain).all())


def test_a_complaint_without_effect_is_left_out(tmp_path: Path) -> None:
    idle = replace(BLAMED, teacher=BLAMED.prompt, report_id="idle")
    cache = _filled(tmp_path, replace(BLAMED, report_id="blamed"), idle)
    assert cache.without_blame(0.01) == [idle]
    assert cache.without_blame(0.0) == []
    assert len(cache.without_blame(99.0)) == 2


def test_the_batch_brings_blame_to_the_columns_of_its_tokens(tmp_path: Path) -> None:
    rows = (ROWS_TO_TEACH[2], BLAMED, Encoded(prompt=(1,), completion=(2,)))
    cache = _filled(tmp_path, *rows[:2])
    inputs = Collator(0, cache)([Share(step=4, rows=rows, total=3)])
    assert inputs["advantage"].shape == inputs["labels"].shape
    torch.testing.assert_close(inputs["advantage"][1, -3:], cache.of(BLAMED)["advantage"])
    assert float(inputs["advantage"][[0, 2]].abs().sum()) == 0.0
    assert inputs["sampled"][1, -3:].tolist() == pytest.approx(cache.of(BLAMED)["sampled"].tolist())
    assert inputs["teacher_log_probs"].shape == (5, VOCABULARY)


def test_the_meter_is_the_divergence_from_the_base_model_on_lessons() -> None:
    lessons = tuple(
        Encoded(prompt=tuple(range(3, 5 + n)), completion=tuple(range(30, 31 + n * 9)), report_id=str(n))
        for n in range(6)
    )
    others = (
        Encoded(prompt=(1,), completion=(2,)),
        Encoded(prompt=(1,), completion=(3,), report_id="a", analyses=True),
    )
    drift = Drift(TrainingSet(encoded=(*lessons, *others), plan=(), left_out={}), seed=1, pad_id=0)
    assert len(lessons) <= ROWS
    model = tiny_peft()
    [untouched] = drift.measure(model, batch_tokens=60)
    assert untouched.kl == pytest.approx(0.0, abs=1e-6)
    assert untouched.entropy == untouched.base_entropy

    change(model)
    model.train()
    before = torch.get_rng_state()
    [found] = drift.measure(model, batch_tokens=60)
    assert torch.equal(before, torch.get_rng_state())  # a resumed training must draw the same dropout
    assert model.training
    figures = []
    for row in lessons:
        answer = row.completion[:TOKENS]
        base, trained = (direct(model, row.prompt, answer, base=one) for one in (True, False))
        entropies = [-(one.exp() * one).sum(-1).mean() for one in (trained, base)]
        figures.append([float(one) for one in (kl(base, trained).mean(), *entropies)])
    means = [sum(column) / len(lessons) for column in zip(*figures, strict=True)]
    assert [found.kl, found.entropy, found.base_entropy] == pytest.approx(means, rel=1e-4)
    assert found.kl > 0.01


def test_a_weaker_adapter_is_nearer_to_the_base_model() -> None:
    lesson = Encoded(prompt=(3, 4), completion=(30, 31), report_id="a")
    model = tiny_peft(changed=True)
    drift = Drift(TrainingSet(encoded=(lesson,), plan=(), left_out={}), seed=1, pad_id=0)
    full, half, tenth = drift.measure(model, batch_tokens=60, strengths=(1.0, 0.5, 0.1))
    assert full.kl > half.kl > tenth.kl > 0
    assert full.base_entropy == half.base_entropy
    assert drift.measure(model, batch_tokens=60) == [full]  # the scale is as before


def test_the_meter_leaves_targets_out_where_there_is_a_teacher() -> None:
    target = Encoded(prompt=(3, 4), completion=(30, 31), report_id="a")
    taught = replace(ROW, report_id="b")
    model = tiny_peft(changed=True)
    both, alone = (
        Drift(TrainingSet(encoded=rows, plan=(), left_out={}), seed=1, pad_id=0).measure(model, batch_tokens=60)
        for rows in ((target, taught), (taught,))
    )
    assert both == alone != []


def test_without_lessons_nothing_is_measured() -> None:
    other = Encoded(prompt=(1,), completion=(2,))
    assert (
        Drift(TrainingSet(encoded=(other,), plan=(), left_out={}), seed=1, pad_id=0).measure(None, batch_tokens=9) == []
    )
