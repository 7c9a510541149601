"""The losses against direct definitions in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from daemon.training.batches import Encoded, Objective, pad
from daemon.training.losses import Batch, Teacher, batch_loss, divergence, importance, kl, log_probs, top_and_rest

TOKENS, VOCABULARY = 7, 40


def _logits(seed: int, *, spread: float = 3.0) -> torch.Tensor:
    return spread * torch.randn(TOKENS, VOCABULARY, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p * (p / q).log()).sum(-1)


def _no_base(_mask: torch.Tensor) -> torch.Tensor:
    raise AssertionError("no example needs the base model")


def _loss(logits: torch.Tensor, rows: list[Encoded], *, alpha: float = 0.5, **taught: Any) -> torch.Tensor:
    """The loss of rows whose logits come one column before each label, as from the model."""
    padded = pad(rows, pad_id=0)
    inputs = {name: torch.tensor(value) for name, value in padded.items() if isinstance(value, list)} | taught
    return batch_loss(logits, Batch.take(inputs), alpha=alpha, ratio_limit=2.0, base=_no_base)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_the_divergence_is_jensen_shannons(alpha: float) -> None:
    student, teacher = _logits(1), _logits(2)
    p, q = student.softmax(-1), teacher.softmax(-1)
    mixture = alpha * q + (1 - alpha) * p
    expected = alpha * _kl(q, mixture) + (1 - alpha) * _kl(p, mixture)
    torch.testing.assert_close(divergence(log_probs(student), log_probs(teacher), alpha), expected)
    in_float32 = divergence(log_probs(student.float()), log_probs(teacher.float()), alpha)
    torch.testing.assert_close(in_float32.double(), expected, rtol=1e-4, atol=1e-6)


def test_at_the_ends_the_divergence_is_forward_and_reverse_kl() -> None:
    student, teacher = _logits(1), _logits(2)
    p, q = student.softmax(-1), teacher.softmax(-1)
    torch.testing.assert_close(divergence(log_probs(student), log_probs(teacher), 0.0), _kl(q, p))
    torch.testing.assert_close(divergence(log_probs(student), log_probs(teacher), 1.0), _kl(p, q))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("top", [None, 5])
def test_a_student_like_its_teacher_has_no_gradient(alpha: float, top: int | None) -> None:
    student = _logits(1).requires_grad_()
    indices = None if top is None else student.topk(top).indices
    expected = log_probs(student) if indices is None else top_and_rest(student, indices)
    teacher = Teacher(expected.detach(), indices)
    loss = divergence(teacher.of_student(student), teacher.log_probs, alpha).sum()
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 1e-12


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_likeliest_tokens_and_the_rest_are_nearly_the_whole_vocabulary(alpha: float) -> None:
    teacher = _logits(2)
    student = teacher + _logits(1, spread=0.7)  # as in a training: not far from its teacher
    whole = divergence(log_probs(student), log_probs(teacher), alpha)
    indices = teacher.topk(30).indices
    part = divergence(top_and_rest(student, indices), top_and_rest(teacher, indices), alpha)
    assert (part <= whole + 1e-12).all()  # merging tokens never adds divergence
    torch.testing.assert_close(part, whole, rtol=0.05, atol=1e-4)


def test_rounding_in_the_files_keeps_a_distribution() -> None:
    teacher = Teacher.kept(log_probs(_logits(1)).half(), None)
    torch.testing.assert_close(teacher.log_probs.exp().sum(-1), torch.ones(TOKENS))
    assert float(kl(log_probs(_logits(1)).float(), teacher.log_probs).max()) < 1e-5


def test_an_impossible_token_is_no_nan() -> None:
    student = _logits(1).float().requires_grad_()
    masked = torch.cat([student[:, :-1], torch.full((TOKENS, 1), -math.inf)], dim=-1)
    for alpha in (0.0, 0.5, 1.0):
        divergence(log_probs(masked), log_probs(masked.detach()), alpha).sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_the_ratio_is_bounded_has_no_gradient_and_is_one_where_nothing_is_known() -> None:
    now = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    ratio = importance(now, torch.tensor([-0.5, -9.0, math.nan]), limit=2.0)
    assert ratio.tolist() == pytest.approx([math.exp(-0.5), 2.0, 1.0])
    assert not ratio.requires_grad


def test_each_row_weighs_the_same_and_a_weight_multiplies_it() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [
        Encoded(prompt=(1, 2), completion=(3, 4, 5, 6), objective=Objective.TEACHER),
        Encoded(prompt=(1, 2, 3, 4, 5), completion=(7,), objective=Objective.TEACHER, weight=3.0),
    ]
    logits = torch.randn(2, 4, VOCABULARY, generator=generator)
    teacher = torch.randn(5, VOCABULARY, generator=generator)
    found = _loss(logits, rows, teacher_log_probs=log_probs(teacher))

    used = [*logits[0], logits[1, -1]]  # the short answer ends in the last column, too
    each = [divergence(log_probs(one), log_probs(other), 0.5) for one, other in zip(used, teacher, strict=True)]
    assert float(found) == pytest.approx(float(sum(each[:4])) / 4 + 3 * float(each[4]), rel=1e-5)


def test_later_tokens_of_an_early_decision_count_less() -> None:
    row = Encoded(prompt=(1,), completion=(2, 3, 4), token_weights=(1.0, 1.0, 0.1), objective=Objective.TEACHER)
    logits, teacher = _logits(1)[None, :3], _logits(2)[:3]
    each = divergence(log_probs(logits[0]), log_probs(teacher), 0.5)
    found = _loss(logits.float(), [row], teacher_log_probs=log_probs(teacher).float())
    assert float(found) == pytest.approx(float(each @ torch.tensor([1.0, 1.0, 0.1]).double()) / 2.1, rel=1e-4)


def test_the_ratio_weighs_a_sampled_token() -> None:
    plain = Encoded(prompt=(1,), completion=(2, 3), objective=Objective.TEACHER)
    logits, teacher = _logits(1)[None, :2].float(), log_probs(_logits(2)[:2]).float()
    now = log_probs(logits)[0, [0, 1], [2, 3]]
    sampled = Encoded(**{**_fields(plain), "sampled": tuple((now - math.log(1.5)).tolist())})
    found = [_loss(logits, [row], teacher_log_probs=teacher).item() for row in (plain, sampled)]
    assert found[1] == pytest.approx(1.5 * found[0], rel=1e-5)


def test_hindsight_only_makes_blamed_tokens_less_likely() -> None:
    row = Encoded(prompt=(1,), completion=(2, 3, 4), objective=Objective.HINDSIGHT)
    logits = _logits(1)[None, :3].float().requires_grad_()
    blame = torch.tensor([[0.0, -2.0, 0.0, -5.0]])  # a column more than tokens, as labels have
    loss = _loss(logits, [row], advantage=blame)
    loss.backward()

    expected = sum(a * log_probs(logits)[0, t, token].item() for a, t, token in ((2.0, 0, 2), (5.0, 2, 4))) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert logits.grad is not None
    own = logits.grad[0, [0, 1, 2], [2, 3, 4]]
    assert (own > 0).tolist() == [True, False, True]  # a step against the gradient lowers the blamed ones
    assert float(logits.grad[0, 1].abs().max()) == 0.0
    others = logits.grad[0, 0].clone()
    others[2] = 0.0
    assert (others <= 0).all()


def test_a_push_fades_as_the_token_gets_unlikely() -> None:
    def pushed(by: float) -> float:
        logits = _logits(1)[None, :1].float()
        logits[0, 0, 2] -= by
        leaf = logits.requires_grad_()
        at_first = log_probs(_logits(1)[0].float())[2]
        row = Encoded(prompt=(1,), completion=(2,), objective=Objective.HINDSIGHT, sampled=(float(at_first),))
        _loss(leaf, [row], advantage=torch.tensor([[0.0, -1.0]])).backward()
        assert leaf.grad is not None
        return float(leaf.grad[0, 0, 2])

    assert pushed(8.0) < 0.01 * pushed(0.0)


def _fields(row: Encoded) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}
