"""Fixtures shared by every kind of test; each module of `tests.fixtures` owns one real part."""

from __future__ import annotations

pytest_plugins: list[str] = [
    "tests.fixtures.config",
    "tests.fixtures.stores",
    "tests.fixtures.broker",
    "tests.fixtures.models",
    "tests.fixtures.servers",
    "tests.fixtures.daemons",
    "tests.fixtures.reflection",
    "tests.fixtures.learned",
    "tests.fixtures.history",
    "tests.fixtures.browser",
    "tests.fixtures.serving",
    "tests.fixtures.measured",
    "tests.fixtures.image",
]
