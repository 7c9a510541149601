"""Names of adapters: as vLLM knows them, and as their folders are called. A name is never reused."""

from __future__ import annotations

import re

FULL_STRENGTH = 1.0
"""The strength at which an adapter was trained."""
_WEAKENED = re.compile(r"-s[0-9]{2}$")
_GENERATION = re.compile(r"-g[0-9]{6}(-s[0-9]{2})?")


def adapter_name(alias: str, generation: int) -> str:
    """Name of a generation inside vLLM, e.g. ``aligned-g000017``."""
    return f"{alias}-g{generation:06d}"


def strength_name(name: str, strength: float) -> str:
    """Name of an adapter at a strength: ``aligned-g000017-s75`` at 0.75."""
    return name if strength == FULL_STRENGTH else f"{name}-s{round(100 * strength):02d}"


def trained_name(name: str) -> str:
    """Name of the adapter at full strength, of one at any strength."""
    return _WEAKENED.sub("", name)


def is_generation(name: str, alias: str) -> bool:
    """Whether the name is that of a generation under this alias, at any strength."""
    return name.startswith(alias) and _GENERATION.fullmatch(name, len(alias)) is not None
