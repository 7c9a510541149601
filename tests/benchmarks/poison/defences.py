"""The settings that put the defences on, which is the default, or take them off as far as the configuration can."""

from __future__ import annotations

import json

from daemon.config.trust import TrustConfig
from tests.benchmarks.poison.people import PRINCIPALS

TOKENS = [{"name": name, "role": "reporter", "token_env": "ERRATAD_BENCH_TOKEN"} for name in PRINCIPALS]
TRUSTED = [{"name": name, "token": name, "trusted": True} for name in PRINCIPALS]

_ALWAYS = f"http.tokens={json.dumps(TOKENS)}"
ON = (_ALWAYS, f"trust.confirm_corrections={TrustConfig().confirm_corrections}")
"""The defaults, where the demo, which nobody attacks, has others."""
OFF = (
    _ALWAYS,
    f"intake.sources={json.dumps(TRUSTED)}",
    *("dataset.max_principal_share=1.0", "dataset.min_per_principal=500"),
    "gate.max_principal_share=1.0",
    "gate.min_shared_gain=0.0",
    "gate.max_new_contact_rise=1.0",
    *(f"gate.{key}=1000000" for key in ("max_same_contact", "max_taught_contacts", "max_memorised")),
    *(f"trust.{step}=claimed" for step in ("analyse", "train_analysis", "train_correction", "gate", "watch")),
    "trust.confirm_corrections=never",
)
"""The operator vouches for every backend, a claim is enough for everything, and nobody's weight is bounded.

What cannot be taken off: the check of a correction's content, turns of the principals in the selection, votes in the
gate, and the secret key of the split.
"""
SETTINGS = {"on": ON, "off": OFF}
