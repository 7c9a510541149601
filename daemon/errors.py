"""Errors. Each text names the problem, the id, and the next step for the operator."""

from __future__ import annotations


class ErratadError(Exception):
    """Base of all errors that erratad raises on purpose. The text is written for operators."""


class ConfigError(ErratadError):
    """The configuration is unusable; the text names the key."""


class NotFoundError(ErratadError):
    """No such report, run or adapter."""


class IllegalTransitionError(ErratadError):
    """A record must not change from its state to the requested one."""


class LeaseLostError(ErratadError):
    """Another worker holds the work item now. The caller must discard its result."""


class NotLeadingError(ErratadError):
    """Another daemon leads now. What this daemon still does as the leader must change nothing."""


class StoreUnavailableError(ErratadError):
    """The database is unreachable. Stages wait and retry."""


class DaemonUnreachableError(ErratadError):
    """The daemon's API does not answer, or something else answers at its address."""


class RefusedError(ErratadError):
    """The daemon's API refused a request; the text is its answer."""


class ArchiveError(ErratadError):
    """A file of the archive cannot be written, is missing or damaged, or another process works in the archive."""


class ArchiveChangedError(ArchiveError):
    """A report changed while it was written to the archive. Nothing was moved."""


class StoreDamagedError(ErratadError):
    """The database's file is damaged, or no database."""


class StoreVersionError(ErratadError):
    """This version of erratad does not know the database's schema version."""


class AnalysisRejectedError(ErratadError):
    """An analysis failed a check; `check` is its name (a closed set)."""

    def __init__(self, check: str, detail: str) -> None:
        super().__init__(f"analysis rejected by check '{check}': {detail}")
        self.check = check


class DatasetError(ErratadError):
    """A dataset cannot be built, or does not match its manifest."""


class ErasedMeanwhileError(DatasetError):
    """A report of the dataset was erased while the dataset was made; it must be made again."""


class ChatTemplateError(ConfigError):
    """The model's chat template is missing or unusable; the text names the next step."""


class ChatDifferenceError(ConfigError):
    """A server reads conversations otherwise than the trainer; the text names the difference and its likely cause."""


class ChatReaderError(DatasetError):
    """The child process that reads conversations failed."""


class UnrenderableError(ErratadError):
    """One conversation cannot become a prompt or a target; `reason` is from a closed set."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class TrainingError(ErratadError):
    """The training process failed; the text includes the end of its log."""


class RunnerUnavailableError(ErratadError):
    """The place where the trainer runs does not answer; the text names it."""


class AdapterInvalidError(ErratadError):
    """An adapter folder must not be loaded; the text names the file and the reason."""


class PromotionError(ErratadError):
    """An adapter could not go live; the previous generation is still live."""


class ServingError(ErratadError):
    """A request to a vLLM server failed."""


class StoppedError(ErratadError):
    """The daemon stops before the work is done; the next start resumes it."""
