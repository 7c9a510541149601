"""The generations that answer: how they change, their share of the requests and their errors."""

from __future__ import annotations

from panels import figure, graph

LIVE_NAMES = "max by (name) (erratad_live_adapter_info)"
REQUESTS = 'max by (role) (erratad_generation_requests{role!="base"})'

PANELS = [
    figure("Live generation", (LIVE_NAMES, "{{name}}"), width=6),
    figure("Servers", ("max by (state) (release_state:erratad_vllm_servers:leader)", "{{state}}"), width=9),
    figure("Repairs", ("sum(erratad_reconcile_repairs_total)", "servers brought back"), width=5),
    figure("Restarts", ("sum(erratad_vllm_restarts_total)", ""), width=4),
    graph("Live generation", ("max(erratad_live_generation)", "generation")),
    graph("Changes", ("sum by (kind, outcome) (erratad_swaps_total)", "{{kind}} {{outcome}}")),
    graph(
        "Mean duration of a swap",
        ("sum(erratad_swap_duration_seconds_sum) / (sum(erratad_swap_duration_seconds_count) > 0)", "mean"),
        unit="s",
        width=8,
    ),
    graph(
        "Servers that do not serve the live generation",
        ('max by (state) (release_state:erratad_vllm_servers:leader{state!="serving"})', "{{state}}"),
        width=8,
    ),
    graph(
        "Requests per second",
        ("sum by (role) (release_role:erratad_generation_requests:rate5m)", "{{role}}"),
        unit="reqps",
        width=8,
        about="By the generation that answered.",
    ),
    graph(
        "Share of requests",
        (
            f"{REQUESTS} / scalar(sum({REQUESTS}))",
            "{{role}}",
        ),
        unit="percentunit",
        width=8,
    ),
    graph(
        "Flagged per 1000 requests",
        ("max by (role) (erratad_generation_flagged_per_1000_requests)", "{{role}}"),
        width=8,
    ),
    graph(
        "Watch after a promotion",
        ("max by (rate) (erratad_watch_p_value)", "p-value, {{rate}}"),
        ("sum by (rate) (erratad_automatic_rollbacks_total)", "rollbacks, {{rate}}"),
        ("max(erratad_watch_blind)", "blind to flags"),
        about="Probability that the live generation's higher rate is chance. Below the set level a rollback follows.",
        width=8,
    ),
    graph(
        "Failed requests",
        ("max by (role) (erratad_generation_errors)", "{{role}}"),
        ("sum(erratad_guidance_refusals_total)", "refused because of the guidance"),
        width=8,
    ),
    graph(
        "Servers by the self-test",
        ("max by (state) (erratad_chat_servers)", "{{state}}"),
        about="Whether a server reads conversations as the trainer does. Nothing is trained while one differs.",
        width=8,
    ),
]
