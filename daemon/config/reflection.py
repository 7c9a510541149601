"""Section `reflection`: the analyst of mistakes, its limits and retries."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from daemon.config.section import Fraction, Positive, Seconds, Section

AT_ANOTHER_ENDPOINT = 4
"""Questions at a time while another endpoint is asked, if no other number is configured."""


class EndpointConfig(Section):
    """An OpenAI-compatible endpoint."""

    url: str
    model: str
    api_key_env: str | None = None


class ReflectionConfig(Section):
    analyst: Literal["self", "endpoint", "template"] = "self"
    endpoint: EndpointConfig | None = None
    fallback_to_template: bool = True
    """If the checks reject every attempt, use the category's template instead of burying the report."""
    template: str = "v1"
    guided: bool = True
    candidates: Positive = 1
    """Analyses per attempt. Of those that pass the checks, the most helpful one is kept."""
    analyses_per_report: Annotated[int, Field(ge=1, le=8)] = 1
    """Different analyses per report, asked for at temperature 0.9. All of them that pass the checks become targets."""
    analyse_again: bool = True
    """The live generation analyses the reports that stay open after its promotion anew, once. Only for analyst self."""
    concurrency: Positive | None = None
    """Maximum number of questions at a time; None: as many as `serving.asking` allows; 4 at another `endpoint`."""
    max_attempts: Positive = 3
    backoff_s: Seconds = 5.0
    lease_s: Seconds = 200.0
    """A worker holds a claimed report for this long. If its daemon was killed, others take the report after that."""
    max_tokens: Positive = 160
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.3
    min_words: Positive = 8
    max_words: Positive = 220
    max_overlap: Fraction = 0.5
    """Maximum share of the analysis' word 5-grams that come from the flagged response."""
    propose_corrections: bool = True
    """If the user gave no correction, ask for a guided answer and keep it if it passes the report's checks."""
    max_correction_characters: Positive = 32_000
    """A longer corrected answer is set aside, whoever proposes it."""
    request_timeout_s: Seconds = 60.0

    @model_validator(mode="after")
    def _endpoint_given(self) -> Self:
        if self.analyst == "endpoint" and self.endpoint is None:
            raise ValueError("endpoint is needed when analyst is 'endpoint'")
        return self

    @model_validator(mode="after")
    def _lease_outlasts_requests(self) -> Self:
        candidates = self.candidates * (1 if self.candidates == 1 else 3)  # each one is scored twice
        requests = 2 + max(candidates, self.analyses_per_report)
        if self.lease_s <= requests * self.request_timeout_s:
            raise ValueError(
                f"lease_s ({self.lease_s:g}) must exceed {requests} times request_timeout_s "
                f"({self.request_timeout_s:g}): a report takes up to {requests} requests, and a lease that ends "
                "before them wastes their answers"
            )
        return self

    @model_validator(mode="after")
    def _candidates_differ(self) -> Self:
        if self.candidates > 1 and self.analyses_per_report > 1:
            raise ValueError("candidates keeps the best analysis, analyses_per_report keeps all: set one of them to 1")
        if self.candidates > 1 and self.temperature == 0:
            raise ValueError("candidates above 1 need a temperature above 0: greedy answers are all the same")
        return self
