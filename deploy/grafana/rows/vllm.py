"""The figures of the vLLM servers themselves."""

from __future__ import annotations

from panels import graph, quantiles

PANELS = [
    graph(
        "Requests",
        ("sum(vllm:num_requests_running)", "running"),
        ("sum(vllm:num_requests_waiting)", "waiting"),
        width=8,
    ),
    graph("Time to the first token", *quantiles("vllm:time_to_first_token_seconds"), unit="s", width=8),
    graph("Time of a whole request", *quantiles("vllm:e2e_request_latency_seconds"), unit="s", width=8),
    graph(
        "Tokens per second",
        ("sum(rate(vllm:generation_tokens_total[$__rate_interval]))", "written"),
        ("sum(rate(vllm:prompt_tokens_total[$__rate_interval]))", "read"),
        width=8,
    ),
    graph(
        "Key-value cache in use",
        ("max by (instance) (vllm:kv_cache_usage_perc)", "{{instance}}"),
        unit="percentunit",
        width=8,
    ),
    graph(
        "Requests ended",
        (
            "sum by (finished_reason) (rate(vllm:request_success_total[$__rate_interval]))",
            "{{finished_reason}}",
        ),
        unit="reqps",
        width=8,
    ),
]
