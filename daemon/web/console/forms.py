"""The console's forms. Each runs the same command as the CLI and the API, as the signed-in user."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from fastapi import APIRouter, Depends, Form
from fastapi.responses import RedirectResponse

from connectors.messages import Identifier, Text
from daemon.config import Config
from daemon.config.web import Role
from daemon.errors import IllegalTransitionError
from daemon.operations import commands, erasure
from daemon.records import MAX_NUMBER
from daemon.store import Store
from daemon.store.control import ALL_STAGES
from daemon.text.visible import hidden_again
from daemon.web.access import Identity
from daemon.web.console.layout import PageRoute, Shell
from daemon.web.console.sessions import local
from daemon.web.dependencies import require_form

Decision = Literal["accept", "correct", "reject", "requeue"]
IntentName = Literal["train", "induce", "promote", "rollback", "refuse", "pause", "resume"]
Reason = Annotated[Text, Form(min_length=1, max_length=1000)]
OptionalReason = Annotated[Text, Form(max_length=1000)]
NO_REASON = "no reason given"
Back = Annotated[str, Form(max_length=2000)]
LongText = Annotated[Text | None, Form(max_length=100_000)]
Number = Annotated[int | None, Form(ge=0, le=MAX_NUMBER)]


def forms_router(shell: Shell, config: Config) -> APIRouter:
    router, store = APIRouter(route_class=PageRoute), shell.store
    reviewer, operator, admin = (
        Depends(require_form(shell.access, role)) for role in (Role.REVIEWER, Role.OPERATOR, Role.ADMIN)
    )

    @router.post("/review")
    def review(
        *,
        report_id: Annotated[Identifier, Form()],
        decision: Annotated[Decision, Form()],
        reason: OptionalReason = "",
        analysis: LongText = None,
        correction: LongText = None,
        back: Back = "/review",
        who: Identity = reviewer,
    ) -> RedirectResponse:
        reason = reason.strip() or NO_REASON
        if decision == "correct":
            commands.correct_analysis(
                store,
                report_id,
                analysis=hidden_again(analysis or ""),
                correction=None if correction is None else hidden_again(correction),
                actor=who.name,
                reason=reason,
            )
        else:
            acts(store)[decision](report_id, actor=who.name, reason=reason)
        return back_to(back, decision)

    @router.post("/steer")
    def steer(
        *,
        intent: Annotated[IntentName, Form()],
        reason: Reason,
        generation: Number = None,
        stage: Annotated[str, Form(max_length=40)] = ALL_STAGES,
        back: Back = "/",
        who: Identity = operator,
    ) -> RedirectResponse:
        _steer(store, intent, generation=generation, stage=stage, actor=who.name, reason=reason)
        return back_to(back, intent)

    @router.post("/approve")
    def approve(
        generation: Annotated[int, Form(ge=0, le=MAX_NUMBER)], reason: Reason, back: Back = "/", who: Identity = admin
    ) -> RedirectResponse:
        commands.approve(store, generation, actor=who.name, reason=reason)
        return back_to(back, "approve")

    @router.post("/erase")
    def erase(
        report_id: Annotated[Identifier, Form()], reason: Reason, back: Back = "/reports", who: Identity = admin
    ) -> RedirectResponse:
        erasure.erase(store, config, report_id, actor=who.name, reason=reason)
        return back_to(back, "erase")

    return router


def acts(store: Store) -> Mapping[str, Callable[..., object]]:
    """Decisions about one report, by the name in forms."""
    return {"accept": store.reviews.accept, "reject": store.reviews.reject, "requeue": store.reports.requeue}


def _steer(store: Store, intent: IntentName, *, generation: int | None, stage: str, actor: str, reason: str) -> None:
    if intent in {"promote", "refuse"} and generation is None:
        raise IllegalTransitionError("no generation is given; go back and choose one")
    match intent:
        case "train":
            commands.request_training(store, actor=actor, reason=reason)
        case "induce":
            commands.request_induction(store, actor=actor, reason=reason)
        case "promote":
            commands.request_promotion(store, generation or 0, actor=actor, reason=reason)
        case "refuse":
            commands.reject_candidate(store, generation or 0, actor=actor, reason=reason)
        case "rollback":
            commands.request_rollback(store, generation, actor=actor, reason=reason)
        case "pause":
            commands.pause(store, stage, actor=actor, reason=reason)
        case "resume":
            commands.resume(store, stage, actor=actor, reason=reason)


def back_to(to: str, did: str) -> RedirectResponse:
    """Redirect to the form's page. `did` selects the notice shown there."""
    parts = urlsplit(local(to))
    query = [(key, value) for key, value in parse_qsl(parts.query) if key != "did"]
    return RedirectResponse(f"{parts.path}?{urlencode([*query, ('did', did)])}", 303)
