"""The settings that put the defences on, which is the default, or take them off as far as the configuration can."""

from __future__ import annotations

ON: tuple[str, ...] = ()
OFF: tuple[str, ...] = ()
SETTINGS = {"on": ON, "off": OFF}
