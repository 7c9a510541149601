"""Teachers and own answers of one run: what the base model must be asked, and the examples that follow.

Before anything is trained, each teacher's prompt is tested: the base model's likeliest answer under it must be good
(`daemon.dataset.flips`). The cheapest teacher that passes is the lesson's. A lesson without one gets its corrected
answer as a target, or else its analysis. Then the base model draws answers of its own, at which it will be compared
with its teacher.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from connectors.guidance import with_guidance
from daemon.artifacts.examples import Example
from daemon.artifacts.run_folder import Flips
from daemon.categories import Kind
from daemon.config.dataset import DatasetConfig
from daemon.dataset.answers import Answer, Answers, Draw, GoesOn, always
from daemon.dataset.flips import best_recipe, flips, in_order
from daemon.dataset.recipes import AUTO, may_teach, recipe, sft, untaught
from daemon.dataset.states import State, taught
from daemon.dataset.teachers import TAUGHT, Teacher, teachers
from daemon.dataset.usable import Usable
from daemon.records import Lesson, Report, conversation
from daemon.text.soundness import repeats_itself
from daemon.text.words import normalised

Lessons = Sequence[tuple[Report, Lesson]]
LESSON_ANSWERS = "lesson_answers"
"""Folder, in the data directory, of the base model's answers to the questions of reports."""
OTHERWISE = "sft"
"""What `auto` chooses where no teacher helps."""


class _Test(NamedTuple):
    """What is known of a lesson's teachers.

    `ask`: the next one to test; `teacher`: the one that passed; `unusable`: one whose prompt cannot be used.
    """

    ask: Draw | None = None
    teacher: Teacher | None = None
    judged: bool = False
    unusable: Teacher | None = None


class Teaching:
    """`recipe_name` is the run's recipe, `by_kind` has the kinds with another one; either may be `auto`."""

    def __init__(
        self, *, recipe_name: str, by_kind: Mapping[str, str], answers: Answers, guidance: str, config: DatasetConfig
    ) -> None:
        """Raises ConfigError if there is no such recipe."""
        for name in (recipe_name, *by_kind.values()):
            if name != AUTO:
                recipe(name)
        self._default = recipe_name
        self._by_kind = dict(by_kind)
        self._answers = answers
        self._guidance = guidance
        self._config = config
        self._used: dict[str, Draw] = {}
        self._kept: dict[str, Answer] = {}
        self._good: dict[tuple[str, str], bool | None] = {}
        self._usable: Usable | None = None
        self._vouched: Collection[str] | None = None
        self._candidates: dict[str, tuple[Report, Lesson]] = {}
        """Those of the training side, by report. One that no teacher helps counts, even if it has no example."""
        self.is_stale = False
        """Whether answers came, or recipes were chosen, since the examples were made."""

    @property
    def by_kind(self) -> dict[str, str]:
        """The recipes of the kinds that have another one than the run, with those that `auto` chose."""
        return dict(sorted(self._by_kind.items()))

    @property
    def unvouched(self) -> frozenset[str]:
        """Ids of reports that have no teacher because nobody vouches for what it would be made of."""
        return frozenset(found for found, one in self._candidates.items() if not self._permitted(*one))

    def permit(self, vouched: Collection[str]) -> None:
        """Name the reports that may have a teacher of any recipe. Before, all may."""
        self._vouched = vouched

    def read_with(self, usable: Usable) -> None:
        """Teachers whose prompt is known to be unusable (too long, for example) are not taken."""
        self._usable = usable

    def render(self, report: Report, lesson: Lesson) -> list[Example]:
        """The examples of one lesson. Until everything is known, those of the first teacher, to see if they fit."""
        self._candidates[report.id] = report, lesson
        options = self._options(report, lesson)
        if options[0] not in TAUGHT:
            return recipe(options[0])(report, lesson)
        tests = [self._test(option, report, lesson) for option in options]
        for test in tests:
            if test.teacher is not None:
                return taught(report, lesson, test.teacher.prompt, self._states(report, lesson, test.teacher))
            if test.ask is not None:
                return taught(report, lesson, test.ask.messages)
        unusable = next((test.unusable for test in tests if test.unusable is not None), None)
        if examples := sft(report, lesson):
            return examples
        if unusable is not None:
            return taught(report, lesson, unusable.prompt)
        return recipe(untaught(self._default))(report, lesson)

    def missing(self, lessons: Lessons) -> list[Draw]:
        """What the base model must still be asked about these lessons: first the teachers, then its own answers."""
        tests = [self._test(name, *one) for one in lessons for name in self._options(*one) if name in TAUGHT]
        waiting = [test.ask for test in tests if test.ask is not None]
        if waiting:
            return _different(waiting)
        self._choose(lessons)
        return _different(draw for one in lessons for draw in self._own_draws(*one) if self._known(draw) is None)

    def ask(self, draws: Sequence[Draw], *, goes_on: GoesOn = always) -> int:
        """Raises EndpointError or ServingError: see `Answers.ask`."""
        self.is_stale = True
        return self._answers.ask(draws, goes_on=goes_on)

    def flips(self) -> dict[str, Flips]:
        """By kind: how many of the lessons that were tested have a teacher that passed.

        Under the kind's recipe; where that has no teacher, under the best one that was tested.
        """
        found = {}
        ordered = sorted(self._candidates.values(), key=lambda one: one[0].kind)
        for kind, of_kind in groupby(ordered, key=lambda one: one[0].kind):
            name, tested = self._recipe(kind), [*of_kind]
            rates = [self.rate(one, tested) for one in ((name,) if name in TAUGHT else in_order(kind))]
            best = max(rates, key=lambda rate: (rate.ratio, rate.lessons))
            if best.lessons:
                found[kind.value] = best
        return found

    def rate(self, name: str, lessons: Lessons) -> Flips:
        """The flips of the teachers of one recipe."""
        tests = [self._test(name, *one) for one in lessons if self._may_teach(name, *one)]
        return Flips(
            lessons=sum(test.judged for test in tests), flipped=sum(test.teacher is not None for test in tests)
        )

    def forget_unused(self) -> None:
        """Delete the answers of lessons that are not candidates any more, such as erased ones."""
        self._answers.forget_others(self._used.values())

    def _recipe(self, kind: Kind) -> str:
        return self._by_kind.get(kind, self._default)

    def _options(self, report: Report, lesson: Lesson) -> tuple[str, ...]:
        """The recipes of this lesson: those that `auto` compares, or one. It has no teacher if none is permitted."""
        return self._permitted(report, lesson) or (untaught(self._default),)

    def _permitted(self, report: Report, lesson: Lesson) -> tuple[str, ...]:
        name = self._recipe(report.kind)
        wanted = in_order(report.kind) if name == AUTO else (name,)
        return tuple(one for one in wanted if self._may_teach(one, report, lesson))

    def _may_teach(self, name: str, report: Report, lesson: Lesson) -> bool:
        return may_teach(name, lesson, vouched=self._vouched is None or report.id in self._vouched)

    def _choose(self, lessons: Lessons) -> None:
        """Choose a recipe for each kind of these lessons under `auto`."""
        kinds = {kind for report, _ in lessons if self._recipe(kind := report.kind) == AUTO}
        for kind in kinds:
            of_kind = [one for one in lessons if one[0].kind is kind]
            rates = {name: self.rate(name, of_kind) for name in in_order(kind)}
            self._by_kind[kind.value] = best_recipe(kind, rates, otherwise=OTHERWISE)
            self.is_stale = True

    def _test(self, name: str, report: Report, lesson: Lesson) -> _Test:
        judged, unusable = False, None
        for teacher in teachers(name, report, lesson, guidance=self._guidance):
            draw = self._draw(report, teacher.prompt, max_tokens=self._config.teacher_tokens, temperature=0.0)
            answer = self._known(draw)
            if not self._fits(report, lesson, teacher):
                unusable = teacher
                continue
            if answer is None:
                return _Test(ask=draw)
            good = self._judge(draw, report, lesson, answer)
            if good:
                return _Test(teacher=teacher, judged=True)
            judged = judged or good is not None
        return _Test(judged=judged, unusable=unusable)

    def _fits(self, report: Report, lesson: Lesson, teacher: Teacher) -> bool:
        examples = taught(report, lesson, teacher.prompt)
        return (
            self._usable is None or not examples or any(self._usable.why_not_example(one) is None for one in examples)
        )

    def _judge(self, draw: Draw, report: Report, lesson: Lesson, answer: Answer) -> bool | None:
        key = draw.identity, repr((report.kind, report.parts, lesson))
        if key not in self._good:
            self._good[key] = flips(report, lesson, self._answers.shown(answer))
        return self._good[key]

    def _states(self, report: Report, lesson: Lesson, teacher: Teacher) -> list[State]:
        """Own answers that are known, or else the correction; and the teacher's answer. No loops, no repeats."""
        greedy = self._draw(report, teacher.prompt, max_tokens=self._config.teacher_tokens, temperature=0.0)
        states: dict[str, State] = {}
        for draw in (*self._drawn(report), greedy):
            answer = self._known(draw)
            if answer is not None and answer.text and not repeats_itself(answer.text):
                messages = None if draw is greedy else draw.messages
                states.setdefault(normalised(answer.text), State(answer.text, answer.ends, messages=messages))
        if not self._config.own_answers.count and lesson.correction is not None:
            states.setdefault(normalised(lesson.correction), State(lesson.correction.strip()))
        return [*states.values()]

    def _own_draws(self, report: Report, lesson: Lesson) -> list[Draw]:
        [name, *_] = self._options(report, lesson)
        has_teacher = name in TAUGHT and self._test(name, report, lesson).teacher is not None
        return self._drawn(report) if has_teacher else []

    def _drawn(self, report: Report) -> list[Draw]:
        """Every second one is drawn under the guidance, as in serving."""
        own, asked = self._config.own_answers, conversation(report)
        prompts = [asked, tuple(with_guidance(asked, self._guidance))] if self._guidance else [asked]
        return [
            self._draw(
                report,
                prompts[number % len(prompts)],
                max_tokens=own.max_tokens,
                temperature=own.temperature,
                number=number + 1,
            )
            for number in range(own.count)
        ]

    def _draw(
        self,
        report: Report,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int,
        temperature: float,
        number: int = 0,
    ) -> Draw:
        return Draw.of(messages, max_tokens=max_tokens, temperature=temperature, report_id=report.id, number=number)

    def _known(self, draw: Draw) -> Answer | None:
        self._used[draw.identity] = draw
        answer = self._kept.get(draw.identity)
        if answer is None and (answer := self._answers.known(draw)) is not None:
            self._kept[draw.identity] = answer
        return answer


def _different(draws: Iterable[Draw]) -> list[Draw]:
    return [*{draw.identity: draw for draw in draws}.values()]
