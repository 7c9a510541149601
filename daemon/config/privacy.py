"""Section `privacy`: what becomes of personal data and secrets in reports."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from daemon.config.section import Section
from daemon.labels import PersonalData
from daemon.records import AfterErasure

Region = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]


class RedactConfig(Section):
    """Kinds that are replaced by placeholders at intake, before anything is stored."""

    email: bool = True
    phone: bool = True
    card: bool = True
    iban: bool = True
    coin: bool = True
    """Addresses of Bitcoin and Ethereum."""
    id: bool = True
    """National ids with check digits."""
    secrets: bool = True
    """Keys, tokens, and long random texts."""
    ip: bool = False
    """IP addresses: in technical chats they are mostly examples."""
    regions: list[Region] = ["US", "GB", "DE", "FR", "IN"]
    """Countries whose national phone numbers and ids are found. Numbers with a country code are found everywhere."""

    @property
    def kinds(self) -> list[PersonalData]:
        switched = {kind: kind.value for kind in PersonalData} | {PersonalData.SECRET: "secrets"}
        return [kind for kind, key in switched.items() if getattr(self, key)]


class PrivacyConfig(Section):
    key_env: str | None = None
    """Variable with the key of pseudonyms, certificates and kept originals; None: a key in `data_dir`/privacy.key."""
    redact: RedactConfig = RedactConfig()
    dead_letters: Literal["redacted", "none"] = "redacted"
    """What a dead letter holds of the message: all without personal data, or only reason, place and hash."""
    keep_original: bool = False
    """Keep what was redacted, encrypted, for admins. It is erased with the report."""
    after_erasure: AfterErasure = AfterErasure.KEEP
    """What becomes of adapters that were trained on an erased report."""

    @model_validator(mode="after")
    def _originals_have_a_key(self) -> Self:
        if self.keep_original and self.key_env is None:
            raise ValueError("keep_original needs key_env: beside the key, encryption would protect nothing")
        return self
