"""Errors that say what happened, to which id, and what the reader should do next."""

from __future__ import annotations


class ErratadError(Exception):
    """Base of every error that erratad raises on purpose; its text is meant for an operator."""


class ConfigError(ErratadError):
    """The configuration is unusable; the text names the key."""


class NotFoundError(ErratadError):
    """No such report, run or adapter."""


class IllegalTransitionError(ErratadError):
    """A record may not go from the state that it is in to the one asked for."""


class LeaseLostError(ErratadError):
    """Another worker holds the work item now; the caller must drop its result."""


class StoreUnavailableError(ErratadError):
    """The database cannot be reached; stages wait and try again."""


class StoreVersionError(ErratadError):
    """The database's schema is not one that this version of erratad knows."""


class AnalysisRejectedError(ErratadError):
    """The analyst's text failed a structured check; `check` names it (closed set)."""

    def __init__(self, check: str, detail: str) -> None:
        super().__init__(f"analysis rejected by check '{check}': {detail}")
        self.check = check


class DatasetError(ErratadError):
    """No training set can be made, or a written one does not match its manifest."""


class TrainingError(ErratadError):
    """The training child failed; the text holds the end of its log."""


class AdapterInvalidError(ErratadError):
    """An adapter folder must not be loaded; the text names the file and the reason."""


class PromotionError(ErratadError):
    """An adapter could not be made live; what was live still is."""


class ServingError(ErratadError):
    """A vLLM server does not do what was asked."""


class StoppedError(ErratadError):
    """The daemon stops before the work was done; the next one takes it up again."""
