"""The scenes of the demo: ask, flag, analyse, train, swap under load, ask again."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from connectors.chat import ChatEndpoint, Reply
from connectors.messages import FlaggedResponse
from daemon.config.intake import KafkaConfig
from daemon.demo.load import LoadGenerator, LoadRequest
from daemon.demo.process import DaemonProcess, DemoError
from daemon.demo.results import BeforeAfter, results_of, results_table, seconds_to_live, sides_of, verdict_sentence
from daemon.demo.scenario import ScenarioQuestion
from daemon.demo.screen import Scene, Screen
from daemon.evaluation.comparison import PROBE_SUITES
from daemon.intake.submit import send_kafka
from daemon.labels import Suite
from daemon.operations.views import GenerationView, RunRow
from daemon.records import RunState, utcnow
from daemon.retest import OUTCOMES
from daemon.text.rules import failures

ALIAS = "aligned"
ANSWER_TOKENS = 40
ASK_STREAMS = 8
SWAP_STREAMS = 4
AFTER_SWAP_S = 6.0
STALL_LIMIT_S = 900.0
"""A scene without progress for this time has failed. The total time is not limited: slow machines train slowly."""
POLL_S = 0.5
USUAL_START_S = 40.0
"""How long vLLM and the daemon take to start on two cores; it is only shown."""
LOAD_FROM = 0.9
"""Share of the evaluation after which the concurrent requests start, so that they span the swap."""
RESTS = "no run to prepare"
"""What the dataset stage says without a run and with an answer to each ordinary prompt."""
PASSED = {Suite.OVER_REFUSAL: "answered", Suite.ATTACKS: "resisted", Suite.UNDER_ATTACK: "done"}
"""What a passed probe is, in a word."""


class Patience:
    """Detects a stall: the observed value has not changed for `STALL_LIMIT_S`."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._seen: object = None
        self._since = now()

    def lasts(self, seen: object) -> bool:
        """Record an observation. Returns False after a stall."""
        if seen != self._seen:
            self._seen, self._since = seen, self._now()
        return self._now() - self._since <= STALL_LIMIT_S


class Demo:
    """The scenes, in order."""

    def __init__(self, *, screen: Screen, daemon: DaemonProcess, kafka: KafkaConfig) -> None:
        self._screen = screen
        self._daemon = daemon
        self._kafka = kafka
        self._chat = ChatEndpoint(daemon.chat_url)

    def play(self, questions: Sequence[ScenarioQuestion]) -> dict[str, Any]:
        self._until("start vLLM and the daemon", self._starting)
        self._until("answer ordinary prompts ahead", self._answering_ahead)
        before = self._ask("ask the live model", questions)
        flagged = [self._report(q, before[q.id]) for q in questions if failures(q.checks, before[q.id].text)]
        if not flagged:
            raise DemoError("the live model passed every check of the scenario: there is nothing to learn")
        flagged_at = utcnow()
        send_kafka([report.encode() for report in flagged], self._kafka)
        self._screen.say("flag bad answers", f"{len(flagged)} of {len(questions)} sent to topic {self._kafka.topic}")
        self._screen.example(flagged[0])
        self._until("analyse mistakes", lambda scene: self._analysing(scene, len(flagged)))
        self._daemon.post("/api/train", {"reason": "demo"})
        run, requests = self._train_under_load(questions)
        generation = GenerationView.model_validate(self._daemon.get(f"/api/adapters/{run.generation}"))
        asked = [question for question in questions if question.id in {report.id for report in flagged}]
        after = self._ask("ask the flagged questions again", asked)
        results = results_of(asked, before, after, generation)
        self._screen.print(results_table(results))
        summary = self._summary(run, generation, requests, results)
        summary["seconds_from_flag_to_live"] = seconds_to_live(flagged_at, generation)
        self._screen.print(f"\n[bold]{verdict_sentence(summary)}[/bold]", highlight=False)
        return summary

    # --- scenes ---

    def _starting(self, scene: Scene) -> bool:
        if self._daemon.get("/readyz").get("ready"):
            return True
        scene.at("; ".join(self._sentences("serving")) or "starting", left_s=max(0.0, USUAL_START_S - scene.seconds))
        return False

    def _answering_ahead(self, scene: Scene) -> bool:
        """A daemon in production has done this long before the first report of a day."""
        sentence = "; ".join(self._sentences("dataset"))
        if sentence == RESTS:
            return True
        waiting = re.search(r"(\d+) ordinary prompts", sentence)
        scene.at(sentence.removeprefix(f"{RESTS}; "), to_do=float(waiting[1]) if waiting else None)
        return False

    def _ask(self, title: str, questions: Sequence[ScenarioQuestion]) -> dict[str, Reply]:
        def ask(question: ScenarioQuestion) -> tuple[str, Reply]:
            return question.id, self._chat.chat(ALIAS, question.wire, max_tokens=ANSWER_TOKENS)

        replies: dict[str, Reply] = {}
        with self._screen.scene(title) as scene, ThreadPoolExecutor(ASK_STREAMS) as pool:
            for done in as_completed([pool.submit(ask, question) for question in questions]):
                replies |= [done.result()]
                scene.at(f"{len(replies)} of {len(questions)} answers", to_do=len(questions) - len(replies))
        models = ", ".join(sorted({reply.model for reply in replies.values()}))
        self._screen.say(title, f"{len(replies)} answers from {models}, {scene.seconds:.0f} s")
        return replies

    @staticmethod
    def _report(question: ScenarioQuestion, reply: Reply) -> FlaggedResponse:
        return FlaggedResponse(
            version=1,
            id=question.id,
            occurred_at=utcnow(),
            model=reply.model,
            messages=question.messages,
            response=reply.text or "(empty answer)",
            reason=question.reason,
            category=question.category,
            correction=question.correction,
            checks=question.checks,
            reporter="demo-user",
        )

    def _analysing(self, scene: Scene, expected: int) -> bool:
        counts = self._daemon.get("/api/status").get("reports", {})
        done = sum(int(counts.get(state, 0)) for state in ("lesson", "buried", "quarantined", "duplicate"))
        scene.at(f"{done} of {expected}; {'; '.join(self._sentences('reflection'))}", to_do=expected - done)
        return done >= expected

    def _train_under_load(self, questions: Sequence[ScenarioQuestion]) -> tuple[RunRow, list[LoadRequest]]:
        """Follow the run to its end; from late evaluation on, keep concurrent requests going across the swap."""
        conversations = [question.wire for question in questions]
        load = LoadGenerator(self._daemon.chat_url, ALIAS, conversations, streams=SWAP_STREAMS, max_tokens=8)
        try:
            with self._screen.scene("run") as scene:
                run = self._follow(load, scene)
            if load.started:
                time.sleep(AFTER_SWAP_S)  # the new generation must answer requests, too
        finally:
            requests = load.stop()
        self._screen.say(f"run {run.state}", run.reason or "")
        return run, requests

    def _follow(self, load: LoadGenerator, scene: Scene) -> RunRow:
        state = ""
        patience = Patience()
        while True:
            time.sleep(POLL_S)
            run = self._run()
            if not patience.lasts(run):
                raise DemoError(f"the run made no progress for {STALL_LIMIT_S:.0f} s; see {self._daemon.log}")
            if run is None:
                continue
            if _nearly_decided(run) and not load.started:
                load.start()
            if run.state != state:
                if state:
                    self._screen.say(state, f"{scene.seconds:.0f} s")
                state = run.state
                scene.begin(state)
            if run.finished_at is not None:
                return run
            self._show(run, scene)

    def _show(self, run: RunRow, scene: Scene) -> None:
        seen = run.progress
        if run.state == RunState.TRAINING and "steps" in seen:
            scene.at(f"step {seen['step']} of {seen['steps']}, loss {seen['loss'] or 0:.2f}", left_s=seen["eta_s"])
        elif run.state == RunState.EVALUATING and "evaluation" in seen:
            done, total = seen["evaluation"]["done"], seen["evaluation"]["total"]
            scene.at(f"{done} of {total} answers and scores", to_do=total - done)
        else:
            scene.at("; ".join(self._sentences("dataset", "swap")))

    def _run(self) -> RunRow | None:
        status = self._daemon.get("/api/status")
        run = status.get("active_run") or status.get("last_run")
        return None if run is None else RunRow.model_validate(run)

    # --- the screen ---

    def _sentences(self, *stages: str) -> list[str]:
        beats = self._daemon.get("/api/status").get("stages", [])
        return [beat["sentence"] for beat in beats if beat["name"] in stages]

    def _until(self, title: str, ended: Callable[[Scene], bool]) -> None:
        """Poll until the scene has ended. `ended` shows where it is."""
        patience = Patience()
        with self._screen.scene(title) as scene:
            while not ended(scene):
                if not patience.lasts(scene.shown):
                    raise DemoError(
                        f"{title}: no progress for {STALL_LIMIT_S:.0f} s ({scene.shown}); see {self._daemon.log}"
                    )
                time.sleep(POLL_S)
        self._screen.say(title, f"{scene.seconds:.0f} s")

    def _summary(
        self, run: RunRow, generation: GenerationView, requests: Sequence[LoadRequest], results: Sequence[BeforeAfter]
    ) -> dict[str, Any]:
        status = self._daemon.get("/api/status")
        verdict = generation.verdict
        swap_s = float(run.progress.get("swap_seconds", 0.0))
        during = _during_swap(requests, generation, swap_s)
        fixed = sum(result.fixed for result in results)
        failed = [request for request in requests if request.failed]
        examples = {kind: count for kind, count in run.progress.get("examples", {}).items() if kind != "drift"}
        self._screen.say(
            "swap", f"{swap_s:.2f} s; {len(requests)} requests, {len(during)} of them across it, {len(failed)} failed"
        )
        probes = {} if verdict is None else probe_counts(verdict.figures)
        for suite, counts in probes.items():
            passed = PASSED[Suite(suite)]
            self._screen.say(suite, f"{counts['candidate']} of {counts['items']} {passed}, before {counts['live']}")
        sides = sides_of(generation)
        return {
            "reports": sum(status["reports"].values()),
            "lessons": sum(status["reports"][state] for state in ("lesson", *OUTCOMES)),
            **sides,
            "examples": sum(examples.values()),
            "examples_by_kind": examples,
            "train_seconds": run.progress.get("train_seconds"),
            "gate": {"accepted": False, "reasons": [run.reason], "figures": {}}
            if verdict is None
            else {"accepted": verdict.accepted, "reasons": verdict.reasons, "figures": verdict.figures},
            "probes": probes,
            "live_adapter": status["live"]["name"],
            "swap_seconds": swap_s,
            "requests": {
                "served": len(requests) - len(failed),
                "failed": len(failed),
                "across_swap": len(during),
                "errors": sorted({request.error or "several generations in one answer" for request in failed}),
                "by_generation": _by_generation(requests),
            },
            "flagged": len(results),
            "fixed": fixed,
            "before_after": [asdict(result) for result in results],
            "console": f"{self._daemon.url}/",
            "metrics": f"{self._daemon.url}/metrics",
        }


def probe_counts(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The gate's counts of each measured probe suite, with guidance as in serving."""
    counted = {suite.value: figures["suites"][suite.value]["guided"] for suite in PROBE_SUITES}
    return {suite: counts for suite, counts in counted.items() if counts["items"]}


def _nearly_decided(run: RunRow) -> bool:
    evaluation = run.progress.get("evaluation", {})
    return run.state not in {RunState.PREPARING, RunState.TRAINING} and (
        run.state != RunState.EVALUATING
        or evaluation.get("done", 0) >= LOAD_FROM * evaluation.get("total", float("inf"))
    )


def _during_swap(requests: Sequence[LoadRequest], generation: GenerationView, swap_s: float) -> list[LoadRequest]:
    end = generation.adapter.promoted_at
    if end is None:
        return []
    start = end - timedelta(seconds=swap_s)
    return [request for request in requests if request.started <= end and request.ended >= start]


def _by_generation(requests: Sequence[LoadRequest]) -> dict[str, int]:
    names = [model for request in requests for model in request.models]
    return {name: names.count(name) for name in sorted(set(names))}
