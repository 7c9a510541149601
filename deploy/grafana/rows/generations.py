"""The generations that answer: how they change, their share of the requests and their errors."""

from __future__ import annotations

from panels import bars, figure, graph, increase, mean_seconds, quantiles

LIVE_NAMES = "max by (name) (erratad_live_adapter_info)"
RATES = 'max by (role) (release_role:erratad_generation_requests:rate5m{role!="base"})'

TRIED = 'role=~"live|candidate"'
CANARY = [
    graph(
        "Requests per second",
        (f"max by (role) (release_role:erratad_generation_requests:rate5m{{{TRIED}}})", "{{role}}"),
        unit="reqps",
        about="The candidate has some while a canary runs; rollout.share is its share of the conversations.",
        width=8,
    ),
    graph(
        "Failed requests",
        (f"max by (role) (release_role:erratad_generation_errors:ratio_rate5m{{{TRIED}}})", "{{role}}"),
        unit="percentunit",
        width=8,
    ),
    graph(
        "Flagged answers",
        (f"max by (role) (erratad_generation_flagged_ratio{{{TRIED}}})", "{{role}}"),
        unit="percentunit",
        about="Share of all answers that the generation with this role has given.",
        width=8,
    ),
]
PANELS = [
    figure("Live generation", (LIVE_NAMES, "{{name}}"), width=6),
    figure("Servers", ("max by (state) (release_state:erratad_vllm_servers:leader)", "{{state}}"), width=9),
    figure("Repairs", (increase("erratad_reconcile_repairs_total"), "servers brought back"), width=5),
    figure("Restarts", (increase("erratad_vllm_restarts_total"), ""), width=4),
    graph("Live generation", ("max(erratad_live_generation)", "generation")),
    graph(
        "Time of a whole answer",
        *quantiles("erratad_request_duration_seconds", "generation"),
        unit="s",
        about="By the generation that answered; the servers export it.",
    ),
    bars(
        "Changes",
        (increase("erratad_swaps_total", "kind, outcome"), "{{kind}} {{outcome}}"),
        about="In the time shown.",
        width=8,
    ),
    figure("Mean duration of a swap", mean_seconds("erratad_swap_duration_seconds"), unit="s", width=8),
    graph(
        "Servers that do not serve the live generation",
        ('max by (state) (release_state:erratad_vllm_servers:leader{state!="serving"})', "{{state}}"),
        width=8,
    ),
    graph(
        "Requests per second",
        ("max by (role) (release_role:erratad_generation_requests:rate5m)", "{{role}}"),
        unit="reqps",
        width=8,
        about="By the generation that answered.",
    ),
    graph(
        "Share of requests",
        (
            f"{RATES} / scalar(sum({RATES}))",
            "{{role}}",
        ),
        unit="percentunit",
        width=8,
    ),
    graph(
        "Flagged answers",
        ("max by (role) (erratad_generation_flagged_ratio)", "{{role}}"),
        unit="percentunit",
        about="Share of all answers that the generation with this role has given.",
        width=8,
    ),
    graph(
        "Watch after a promotion",
        ("max by (rate) (erratad_watch_p_value)", "p-value, {{rate}}"),
        ("sum by (rate) (increase(erratad_automatic_rollbacks_total[$__rate_interval]))", "rollbacks, {{rate}}"),
        ("max(erratad_watch_blind)", "blind to flags"),
        about="Probability that the live generation's higher rate is chance. Below the set level a rollback follows.",
        width=8,
    ),
    graph(
        "Failed requests",
        ("max by (role) (release_role:erratad_generation_errors:ratio_rate5m)", "{{role}}"),
        unit="percentunit",
        about="Share of the requests; by the generation that answered.",
        width=8,
    ),
    graph(
        "Refused because of the guidance",
        ("sum(rate(erratad_guidance_refusals_total[$__rate_interval]))", "per second"),
        unit="reqps",
        width=8,
    ),
    graph(
        "Answers since the generation was made",
        ("max by (role) (erratad_generation_lifetime_requests)", "{{role}}"),
        width=8,
    ),
    graph(
        "Servers by the self-test",
        ("max by (state) (erratad_chat_servers)", "{{state}}"),
        about="Whether a server reads conversations as the trainer does. Nothing is trained while one differs.",
        width=8,
    ),
]
