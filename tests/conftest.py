"""Fixtures shared by every kind of test; each module of `tests.fixtures` owns one real part."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# tests are not timed: a shared machine under load draws inputs slowly
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

pytest_plugins: list[str] = [
    "tests.fixtures.workers",
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
    "tests.fixtures.wheel",
    "tests.fixtures.receiver",
    "tests.fixtures.mlflow",
    "tests.fixtures.moto",
    "tests.fixtures.ray_cluster",
    "tests.fixtures.drill",
    "tests.fixtures.first_failure",
]
