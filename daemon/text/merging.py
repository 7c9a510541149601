"""Combines the reports of one answer: reasons, follow-ups, corrections and checks of all, each with its reporter.

No report decides because it came first. Each principal has one vote, shared by its reporters (`daemon.text.votes`), so
neither repeating a report nor inventing reporters gains anything against another principal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from connectors.checker.bounds import MAX_TEXT_CHARS, schema_excess
from connectors.messages import Checks, FlaggedResponse, Severity
from daemon.labels import Fault
from daemon.parts import Part
from daemon.records import COMPLETE_JSON, Report
from daemon.text.content import MAX_CHARACTERS, Finding, correction_fault
from daemon.text.rules import TIMEOUT_S, Rules, failures
from daemon.text.votes import newest_first, strongest_first, votes
from daemon.text.words import normalised

MAX_REASON_BYTES = 600
"""The length of several reasons together, and of several follow-ups; each one gets an equal share of it."""
MAX_REASONS = 10
"""Of more reasons, those with most votes count, and then the newest."""
_CUT = " [...]"
MAX_TRIED = 5
"""Number of different corrections that are tried against the rules, and of different patterns and schemas that are
tried on the flagged answer: they share the time of one answer."""
_SHARE_S = TIMEOUT_S / MAX_TRIED / 2
_MOST: Mapping[str, int] = {"must_contain": 100, "must_not_contain": 100, "regex": 2, "json_schema": 2}
"""The rules that count, per kind, if several reports have rules."""
_MOST_CHARS = MAX_TEXT_CHARS // 2
"""The characters of the texts that count, per kind: together they stay a rule that can be checked."""
PRINCIPAL_WEIGHT = 1000
"""More than the reporters of all parts of one answer."""
_RANK: Mapping[Severity, int] = {Severity.LOW: 0, Severity.MEDIUM: 1, Severity.HIGH: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A correction or a rule of a report that is not used. Without a fault, it only lost against another one."""

    __pydantic_config__ = COMPLETE_JSON

    report_id: str
    principal: str
    reporter: str
    reason: str
    fault: Fault | None = None

    @property
    def sender(self) -> str:
        """The reporter and its principal, for people."""
        return f"{self.reporter} of {self.principal}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """All reports of one answer, as one.

    `flagged` is the report that stands for the answer, with the reasons and follow-ups of all, the chosen correction,
    the highest severity, and without checks: one report's rules cannot always be written as one with another's. Use
    `rules`.
    """

    flagged: FlaggedResponse
    corrections: tuple[Part, ...]
    """The parts with a usable correction, best first."""
    checks: tuple[Checks, ...]
    """Rules of all reports; a good answer meets all of them."""
    set_aside: tuple[SetAside, ...]

    @property
    def faulty(self) -> tuple[SetAside, ...]:
        """What is set aside because of a fault of its own."""
        return tuple(one for one in self.set_aside if one.fault is not None)

    @property
    def review_weight(self) -> int | None:
        """How urgent a review of what is set aside is: by its principals, then by its reporters, then by severity.

        None: nothing is faulty.
        """
        principals = {one.principal for one in self.faulty}
        reporters = {(one.principal, one.reporter) for one in self.faulty}
        if not reporters:
            return None
        people = (len(principals) - 1) * PRINCIPAL_WEIGHT + len(reporters)
        return people * len(_RANK) + _RANK[self.flagged.severity]

    @property
    def rules(self) -> Rules | None:
        """The rules for `failures`; None if there are none."""
        if len(self.checks) > 1:
            return self.checks
        return self.checks[0] if self.checks else None


def merged(report: Report, *, max_correction_characters: int = MAX_CHARACTERS) -> Merged:
    """Combine a report with the other reports of its answer.

    - Reasons, and the users' next messages: each distinct one, in the order of arrival.
    - Checks: the rules of all. If two reporters contradict each other ("contains X" and "does not contain X"), the rule
      with more votes counts; with equally many, none of the two.
      Checks that the flagged answer meets do not count: they say nothing about the mistake.
    - Corrections: those that meet all rules first, then those with more votes, then the newest. One that fails its
      own report's checks, or `daemon.text.content.correction_fault`, is set aside.
    """
    parts, met = _telling(report.parts, report.flagged.response)
    checks, contradictions = _checks(parts)
    corrections, useless = _corrections(parts, report.flagged, checks, max_correction_characters)
    flagged = report.flagged.model_copy(
        update={
            "reason": _said(parts, "reason"),
            "follow_up": _said(parts, "follow_up") or None,
            "correction": corrections[0].correction if corrections else None,
            "severity": max((part.severity for part in parts), key=_RANK.__getitem__),
            "checks": None,
        }
    )
    return Merged(flagged=flagged, corrections=corrections, checks=checks, set_aside=(*met, *contradictions, *useless))


# --- reasons and follow-ups ---


def _said(parts: Sequence[Part], field: Literal["reason", "follow_up"]) -> str:
    """The distinct texts of this field; several are cut to equal shares of `MAX_REASON_BYTES`."""
    groups: dict[str, list[Part]] = {}
    texts: dict[str, str] = {}
    for part in parts:
        if text := getattr(part, field):
            groups.setdefault(normalised(text), []).append(part)
            texts.setdefault(normalised(text), text)
    if len(groups) < 2:
        return next(iter(texts.values()), "")
    strongest = strongest_first(groups)[:MAX_REASONS]
    share = MAX_REASON_BYTES // len(strongest) - 1
    return "\n".join(_clipped(" ".join(text.split()), share) for key, text in texts.items() if key in strongest)


def _clipped(text: str, max_bytes: int) -> str:
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return text
    return encoded[: max_bytes - len(_CUT)].decode(errors="ignore") + _CUT


# --- checks ---


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """One rule, with the parts that have it."""

    field: str
    value: Any
    parts: tuple[Part, ...]

    def __str__(self) -> str:
        return f"{self.field.replace('_', ' ')} {self.value!r:.80}"


def _telling(parts: Sequence[Part], answer: str) -> tuple[list[Part], list[SetAside]]:
    """The parts, without the checks that the flagged answer meets or that are not tried on it."""
    groups: dict[str, list[Part]] = {}
    for part in parts:
        if part.rules is not None:
            groups.setdefault(part.rules.model_dump_json(), []).append(part)
    aside: dict[str, SetAside] = {}
    tried = 0
    for key in strongest_first(groups):
        owners = groups[key]
        costly = _is_costly(owners[0].checks)
        tried += costly
        fault = None
        if costly and tried > MAX_TRIED:
            reason = f"its checks are not tried: {MAX_TRIED} others with a regex or json_schema come first"
        elif _meets(key, answer):
            reason, fault = "its checks do not count: the flagged answer meets them", Fault.CHECKS_MET
        else:
            continue
        aside |= {part.report_id: _aside(part, reason, fault) for part in owners}
    return [replace(part, checks=None) if part.report_id in aside else part for part in parts], list(aside.values())


def _is_costly(checks: Checks | None) -> bool:
    return checks is not None and (checks.regex is not None or checks.json_schema is not None)


@lru_cache(maxsize=128)
def _meets(checks: str, text: str) -> bool:
    return not failures(Checks.model_validate_json(checks), text, timeout_s=_SHARE_S)


def _checks(parts: Sequence[Part]) -> tuple[tuple[Checks, ...], list[SetAside]]:
    own = [part.rules for part in parts if part.rules is not None]
    if len(own) < 2:
        return tuple(own), []
    rules = {field: _rules(parts, field) for field in _MOST}
    dropped = {id(rule): reason for field in rules for rule, reason in _excess(rules[field], field)}
    texts = [rule for field in ("must_contain", "must_not_contain") for rule in rules[field] if id(rule) not in dropped]
    for rule, stronger in _contradictions(texts):
        dropped[id(rule)] = f"the rule {str(stronger)!r} contradicts it"
    kept = {field: [rule.value for rule in rules[field] if id(rule) not in dropped] for field in rules}
    limits = [checks.max_words for checks in own if checks.max_words is not None]
    first = Checks(
        must_contain=kept["must_contain"],
        must_not_contain=kept["must_not_contain"],
        regex=next(iter(kept["regex"]), None),
        json_schema=next(iter(kept["json_schema"]), None),
        max_words=min(limits, default=None),
    )
    further = [Checks(**{field: value}) for field in ("regex", "json_schema") for value in kept[field][1:]]
    aside = [
        _aside(part, f"not used: {rule}; {dropped[id(rule)]}")
        for field in rules
        for rule in rules[field]
        if id(rule) in dropped
        for part in rule.parts
    ]
    return tuple(one for one in (first, *further) if one != Checks()), aside


def _rules(parts: Sequence[Part], field: str) -> list[_Rule]:
    groups: dict[str, tuple[Any, list[Part]]] = {}
    for part in parts:
        value = getattr(part.checks or Checks(), field)
        for one in value if isinstance(value, list) else [] if value is None else [value]:
            key = normalised(one) if field in {"must_contain", "must_not_contain"} else json.dumps(one, sort_keys=True)
            owners = groups.setdefault(key, (one, []))[1]
            if part not in owners[-1:]:
                owners.append(part)
    return [_Rule(field=field, value=value, parts=tuple(owners)) for value, owners in groups.values()]


def _excess(rules: Sequence[_Rule], field: str) -> Iterator[tuple[_Rule, str]]:
    """The rules above the limits of their kind, those with the fewest votes, each with the limit."""
    count, chars = 0, 0
    for at in strongest_first({at: rule.parts for at, rule in enumerate(rules)}):
        rule = rules[at]
        size = len(rule.value) if field in {"must_contain", "must_not_contain"} else 0
        too_large = schema_excess(rule.value) if field == "json_schema" else None
        if too_large is not None:
            yield rule, f"it {too_large}"
        elif count >= _MOST[field]:
            yield rule, f"{_MOST[field]} rules of this kind count"
        elif chars + size > _MOST_CHARS:
            yield rule, f"{_MOST_CHARS} characters of this kind count"
        else:
            count, chars = count + 1, chars + size


def _contradictions(texts: Sequence[_Rule]) -> Iterator[tuple[_Rule, _Rule]]:
    """The rules that lose against another one: a text that must occur contains one that must not."""
    plain = [(rule, normalised(rule.value)) for rule in texts]
    for wanted, text in plain:
        for unwanted, needle in plain:
            contradict = (
                (wanted.field, unwanted.field) == ("must_contain", "must_not_contain") and needle and needle in text
            )
            if not contradict or wanted.parts == unwanted.parts:  # one report contradicts itself: as without others
                continue
            for_wanted, for_unwanted = votes([wanted.parts, unwanted.parts])
            if for_unwanted >= for_wanted:
                yield wanted, unwanted
            if for_wanted >= for_unwanted:
                yield unwanted, wanted


# --- corrections ---


def _corrections(
    parts: Sequence[Part], flagged: FlaggedResponse, checks: tuple[Checks, ...], max_characters: int
) -> tuple[tuple[Part, ...], list[SetAside]]:
    groups: dict[str, list[Part]] = {}
    for part in parts:
        if part.correction is not None:
            groups.setdefault(" ".join(part.correction.split()), []).append(part)
    useful: list[list[Part]] = []
    useless: list[SetAside] = []
    tried = 0
    for key in strongest_first(groups):
        kept = []
        for part in newest_first(groups[key]):
            tried += _is_costly(part.checks)
            if len(useful) == MAX_TRIED or (_is_costly(part.checks) and tried > MAX_TRIED):
                useless.append(_aside(part, f"its correction is not tried: {MAX_TRIED} others come first"))
            elif finding := _finding(part, flagged, max_characters):
                useless.append(_aside(part, f"its correction is not used: {finding.sentence}", finding.fault))
            else:
                kept.append(part)
        useful += [kept] if kept else []
    if len(useful) > 1:
        good = [owners for owners in useful if not failures(checks, str(owners[0].correction), timeout_s=_SHARE_S)]
        useful = [*good, *(owners for owners in useful if owners not in good)]
    return tuple(owners[0] for owners in useful), useless


def _finding(part: Part, flagged: FlaggedResponse, max_characters: int) -> Finding | None:
    return correction_fault(
        part.correction or "", flagged, rules=part.rules, max_characters=max_characters, timeout_s=_SHARE_S
    )


def _aside(part: Part, reason: str, fault: Fault | None = None) -> SetAside:
    return SetAside(
        report_id=part.report_id, principal=part.principal, reporter=part.reporter, reason=reason, fault=fault
    )
