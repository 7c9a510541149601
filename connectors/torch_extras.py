"""Hides torchvision, torchaudio and torchcodec where they cannot be imported. Import it before transformers or vLLM.

vLLM's build for CPUs depends on these three, and pip may choose their builds for CUDA. With a torch for CPUs their
import fails, and transformers, which only looks whether they are installed, fails with them ("operator torchvision::nms
does not exist"). Text models need none of them.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

NAMES = ("torchvision", "torchaudio", "torchcodec")


def hide_unusable() -> tuple[str, ...]:
    """Make those that cannot be imported look as if they were not installed, in this process. Returns their names.

    With a torch for GPUs, and where none is installed, nothing is imported.
    """
    present = [name for name in NAMES if name not in sys.modules and find_spec(name) is not None]
    if present and _torch_is_for_cpus():
        for name in present:
            _try(name)
    return tuple(name for name in NAMES if sys.modules.get(name, sys) is None)


def _torch_is_for_cpus() -> bool:
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    version = Path(spec.origin).with_name("version.py")
    return version.is_file() and "+cpu'" in version.read_text(encoding="utf-8")


def _try(name: str) -> None:
    try:
        import_module(name)
    except Exception:  # noqa: BLE001 - a missing library, a missing operator, ...: each fails in its own way
        for loaded in [one for one in sys.modules if one.partition(".")[0] == name]:
            del sys.modules[loaded]
        sys.modules[name] = None  # type: ignore[assignment]  # importlib's mark of a module that is not there


HIDDEN = hide_unusable()
