"""Names of adapters at their strengths."""

from __future__ import annotations

import pytest

from daemon.adapter_names import adapter_name, is_generation, strength_name, trained_name


@pytest.mark.parametrize(
    ("strength", "at_strength"),
    [(1.0, "a-g000001"), (0.75, "a-g000001-s75"), (0.05, "a-g000001-s05"), (0.29, "a-g000001-s29")],
)
def test_each_strength_has_its_name(strength: float, at_strength: str) -> None:
    name = adapter_name("a", 1)
    assert strength_name(name, strength) == at_strength
    assert trained_name(at_strength) == name


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("a-g000017", True),
        ("a-g000017-s75", True),
        ("a", False),
        ("a-g17", False),
        ("b-g000017", False),
        ("a-gpt", False),
    ],
)
def test_only_names_of_generations_under_the_alias_are_such(name: str, is_one: bool) -> None:
    assert is_generation(name, "a") is is_one
