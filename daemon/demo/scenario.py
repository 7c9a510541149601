"""The questions of the demo and the checks of their answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from connectors.messages import ChatMessage, Checks, sentences
from daemon.artifacts.jsonl import numbered_lines
from daemon.errors import ConfigError

SCENARIO = Path(__file__).parents[1] / "data" / "demo_scenario.jsonl"


class ScenarioQuestion(BaseModel):
    """One line of a scenario: the question, the checks of a good answer, and the reason that a user would report."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    category: str
    messages: list[ChatMessage]
    reason: str
    checks: Checks
    correction: str | None = None

    @property
    def wire(self) -> list[dict[str, Any]]:
        return [message.model_dump(exclude_none=True) for message in self.messages]


def load_scenario(path: Path) -> list[ScenarioQuestion]:
    """Read a scenario. Raises ConfigError with file and line."""
    questions = []
    try:
        lines = numbered_lines(path)
    except OSError as exc:
        raise ConfigError(f"cannot read scenario {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"scenario {path} is no JSONL file: byte {exc.start} is not UTF-8") from exc
    for number, line in lines:
        try:
            questions.append(ScenarioQuestion.model_validate_json(line))
        except ValidationError as exc:
            [said] = sentences(exc.errors()[:1], whole="line")
            raise ConfigError(f"{path}:{number}: {said}") from exc
    if not questions:
        raise ConfigError(f"{path} has no questions; see {SCENARIO} for an example")
    return questions
