"""The daemon as the commands see it. `local` works on the store, `remote` over the HTTP API; both give the same."""

from __future__ import annotations

from typing import Any, Literal, Protocol, TypeAlias

from daemon.report_filter import ALL, ReportFilter

Document: TypeAlias = dict[str, Any]
"""A JSON object of the HTTP API: times are ISO 8601 texts, states are texts."""
ReportAction: TypeAlias = Literal["accept", "bury", "requeue", "evidence"]
Request: TypeAlias = Literal["train", "induce", "promote", "rollback", "approve"]


class Backend(Protocol):
    """What an operator can read and do. The audit log names the caller, and every action has a reason.

    Raises:
        NotFoundError, IllegalTransitionError: As the operations behind the methods do.
        StoreUnavailableError, DaemonUnreachableError: It does not answer.
        RefusedError: The daemon does not take the request, for example because of the token's role.
    """

    where: str
    """The server, as the end of a question; empty for the store of this machine."""

    # --- read ---

    def status(self) -> Document: ...

    def reports(self, wanted: ReportFilter = ALL, *, limit: int) -> list[Document]: ...

    def report(self, report_id: str) -> Document: ...

    def review_queue(self, *, limit: int) -> Document: ...

    def lessons(self, *, limit: int) -> list[Document]: ...

    def runs(self, *, limit: int) -> list[Document]: ...

    def run(self, run_id: int) -> Document: ...

    def adapters(self, *, state: str | None = None, limit: int) -> list[Document]: ...

    def adapter(self, generation: int) -> Document: ...

    def audit(self, *, limit: int) -> list[Document]: ...

    def intent(self, intent_id: int) -> Document: ...

    def certificate(self, report_id: str) -> Document: ...

    def certificate_key(self) -> str: ...

    # --- reports ---

    def act_on(self, report_id: str, action: ReportAction, *, reason: str) -> None: ...

    def correct(self, report_id: str, *, analysis: str, correction: str | None, reason: str) -> None: ...

    def original(self, report_id: str, *, reason: str) -> Document: ...

    def erase(self, report_id: str, *, reason: str) -> Document:
        """Returns the certificate."""
        ...

    # --- steer ---

    def request(self, kind: Request, *, generation: int | None = None, reason: str) -> Document:
        """Returns the intent, which the daemon carries out."""
        ...

    def reject(self, generation: int, *, reason: str) -> None: ...

    def pause(self, stage: str, *, reason: str) -> None: ...

    def resume(self, stage: str, *, reason: str) -> bool:
        """False: it was not paused."""
        ...
