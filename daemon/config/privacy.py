"""Section `privacy`: what becomes of personal data and secrets in reports."""

from __future__ import annotations

from daemon.config.section import Section
from daemon.records import AfterErasure


class PrivacyConfig(Section):
    key_env: str | None = None
    """Variable with the key of pseudonyms, certificates and kept originals; None: a key in `data_dir`/privacy.key."""
    after_erasure: AfterErasure = AfterErasure.KEEP
    """What becomes of adapters that were trained on an erased report."""
