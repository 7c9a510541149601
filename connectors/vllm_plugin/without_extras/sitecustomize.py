"""Python imports this at the start of every child process of a server that hides packages (`torch_extras`)."""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

for _name in os.environ.get("ERRATAD_HIDDEN_PACKAGES", "").split():
    sys.modules[_name] = None  # type: ignore[assignment]  # importlib's mark of a module that is not there

# the file of this name that Python would have imported otherwise
_others = [folder for folder in sys.path if Path(folder) != Path(__file__).parent]
if (_spec := PathFinder.find_spec("sitecustomize", _others)) is not None and _spec.loader is not None:
    _spec.loader.exec_module(module_from_spec(_spec))
