"""Items of answers that users liked: the model must still answer their questions soundly. They are never trained on."""

from __future__ import annotations

from connectors.messages import FlaggedResponse
from connectors.messages.shapes import is_blank
from daemon.chat.preparation import Preparation
from daemon.config.evaluation import EvaluationConfig
from daemon.evaluation.suites import Item
from daemon.evaluation.votes import Trust, Voter
from daemon.labels import Suite
from daemon.records import Run, conversation
from daemon.store import Signal, Store
from daemon.text.soundness import asked_by


def praised_items(
    store: Store, run: Run, *, config: EvaluationConfig, preparation: Preparation, trust: Trust
) -> list[Item]:
    """The newest thumbs up from before the run, in turn over the principals that sent them.

    A liked answer that another user flagged is not among them: a thumb down wins.
    """
    kept = store.signals.praised(limit=config.max_praised_items, before=run.created_at)
    shown = [(signal, _without_thoughts(signal.flagged, preparation)) for signal in kept]
    usable = [(one, said) for one, said in shown if said.not_trainable is None and not is_blank(said.response)]
    return [_item(signal, said, trust) for signal, said in usable]


def _without_thoughts(flagged: FlaggedResponse, preparation: Preparation) -> FlaggedResponse:
    return flagged.model_copy(update={"response": preparation.split(flagged.response, opened=True).answer})


def _item(signal: Signal, said: FlaggedResponse, trust: Trust) -> Item:
    """The liked answer is what a sound answer is compared with: its topic, its language, whether it declines."""
    principal = signal.source.principal
    voter = Voter(
        principal=principal, reporter=said.reporter, cluster=f"liked {signal.id}", trusted=trust.vouched(principal)
    )
    unflagged = said.model_copy(update={"response": ""})
    return Item(
        suite=Suite.PRAISED,
        id=signal.id,
        messages=conversation(said),
        good=said.response,
        voter=voter,
        asked=asked_by(unflagged, correction=said.response),
    )
