"""One report, or one generation, as text."""

from __future__ import annotations

from collections.abc import Iterable

from daemon.cli.output import heading, indented, say, table
from daemon.operations.progress import progress_text
from daemon.operations.scores import strength_lines, suite_scores
from daemon.operations.shown import AnswerView, MeasuredView
from daemon.operations.status import because
from daemon.operations.views import GenerationView, ReportView, SameAnswerView, StandingView
from daemon.retest import tally_text


def show_report(view: ReportView) -> None:
    report = view.report
    say(f"Report {report.id}: {report.state}{because(report.state_reason, ', ')}")
    sender = f"{report.reporter} of {report.principal}"
    say(f"{report.category_text}, severity {report.severity}, by {sender} over {report.channel}")
    if report.sent_id != report.id:
        say(f"sent under the id {report.sent_id}, which another sender had used before")
    say(f"received {report.received_at:%Y-%m-%d %H:%M:%S} UTC; the flagged answer came from {report.model}")
    say(f"evidence that the model gave it, {report.evidence_text}")
    _show_standing(view.standing)
    if report.resolved_generation is not None:
        say(f"{report.state} in generation {report.resolved_generation}")
    for retest in view.retests:
        say(f"asked again in run {retest.run_id}: {retest.outcome or 'undecided'}, {retest.counts}")
    if report.not_trainable is not None:
        say(f"not trainable here: {report.not_trainable}")
    for message in view.messages:
        _section(message.role.capitalize(), message.shown)
    _section("Flagged answer", view.shown_response)
    _section("What is wrong, according to the reporter", report.reason or "no reason was given")
    _section("The user's next message", report.follow_up)
    _section("Expected answer, according to the reporter", view.user_correction)
    if view.checks is not None:
        _section("Rules of a good answer", view.checks.model_dump_json(indent=2, exclude_defaults=True))
    if view.same_answer is not None:
        _show_same_answer(view.same_answer)
    if view.lesson is not None:
        for one in view.analyses:
            earlier = "" if one.current else "Earlier analysis, not a target any more: "
            by = f"by {one.writer}" + (f" (template {one.template})" if one.template else "")
            _section(f"{earlier or 'Analysis '}{by}, {one.at:%Y-%m-%d %H:%M} UTC", one.text)
        _section(f"Correction ({view.lesson.correction_source})", view.lesson.correction)
    trained = ", ".join(f"{adapter.name} ({adapter.state})" for adapter in view.trained_in)
    _section("Adapters trained on it", trained or "none")
    _section("Left out", "\n".join(one.said for one in view.left_out))
    _show_measured(view.measured)


def _show_standing(standing: StandingView) -> None:
    say(f"grade: {standing.grade}{', from a trusted source' if standing.trusted else ''}")
    for name, decision in (
        ("train on the analysis", standing.analysis),
        ("train on the correction", standing.correction),
        ("count in the gate", standing.gate),
    ):
        if decision is not None:
            say(f"{name}: {'yes' if decision.allowed else 'no'}, {decision.said}")
    if standing.analysis is None and standing.waits is not None:
        say(f"not analysed yet: {standing.waits}")


def _show_same_answer(same: SameAnswerView) -> None:
    for part in same.others:
        said = [part.reason or "no reason was given"]
        if part.follow_up is not None:
            said.append(f"the user's next message: {part.follow_up}")
        if part.correction is not None:
            said.append(f"expected answer: {part.correction}")
        if part.checks is not None:
            said.append(f"rules: {part.checks.model_dump_json(exclude_defaults=True)}")
        _section(f"Report {part.report_id} of the same answer, by {part.sender}", "\n".join(said))
    if same.correction_by is not None:
        _section("The correction that counts", f"by {same.correction_by}")
    _section("Set aside", "\n".join(f"{one.report_id}, by {one.sender}: {one.reason}" for one in same.set_aside))


def show_generation(view: GenerationView) -> None:
    adapter, run, verdict = view.adapter, view.run, view.verdict
    say(f"{adapter.name}: {adapter.state}{because(adapter.reason, ', ')}")
    if adapter.promoted_at is not None:
        say(f"went live {adapter.promoted_at:%Y-%m-%d %H:%M:%S} UTC")
    if run is None:
        say("the base model: it has no run")
        return
    say(f"run {run.id}: {run.state}, started {run.created_at:%Y-%m-%d %H:%M:%S} UTC by {run.requested_by}")
    say(f"recipe {run.recipe}, seed {run.seed}; generation {run.base_generation} was live when it started")
    if done := progress_text(run):
        say(done)
    if adapter.path is not None:
        say(f"weights in {adapter.path}, sha256 {adapter.sha256}")
    _section(f"Trained on {len(view.trained_on)} reports", ", ".join(view.trained_on))
    _section("Analyses by", "\n".join(f"{writer}: {count}" for writer, count in view.analyses_by.items()))
    if view.erased:
        _section(f"Of these erased since: {len(view.erased)}", ", ".join(view.erased))
    _section(f"Held out {len(view.held_out)} reports", ", ".join(view.held_out))
    _section(
        f"Left out {len(view.left_out)} reports", "\n".join(f"{one.report_id}: {one.said}" for one in view.left_out)
    )
    if verdict is None:
        _section("Verdict", "none yet")
    else:
        _section("Reports asked again", tally_text(verdict.figures))
        _section("Verdict: accepted" if verdict.accepted else "Verdict: rejected", "\n".join(verdict.reasons))
        _section("Strengths", "\n".join(strength_lines(verdict.figures)))
    _show_scores(view.measured)


def _show_scores(measured: Iterable[MeasuredView]) -> None:
    scores = suite_scores(measured)
    if scores:
        heading("Items passed")
        table(
            ("SUITE", "GUIDANCE", "ITEMS", "BEFORE", "AFTER"),
            [
                (one.suite, "with" if one.guided else "without", one.items, one.passed_before, one.passed_after)
                for one in scores
            ],
            empty="",
        )


def _show_measured(measured: Iterable[MeasuredView]) -> None:
    for item in measured:
        guidance = "with" if item.guided else "without"
        heading(f"Measured for generation {item.generation} ({item.suite}, {guidance} guidance)")
        for side, answer in (("before", item.before), ("after", item.after)):
            if answer is not None:
                say(f"  {side}, {answer.arm}: {_judged(answer)}")
                indented(answer.text)
        for answer in item.samples:
            say(f"  sample, {answer.arm}: {_judged(answer)}")
            indented(answer.text)


def _judged(answer: AnswerView) -> str:
    judged = {None: "not judged by rules", True: "passes", False: "fails"}[answer.passed]
    return judged if answer.margin is None else f"{judged}, margin {answer.margin:.3f} nats per token"


def _section(title: str, text: str | None) -> None:
    if text:
        heading(title)
        indented(text)
