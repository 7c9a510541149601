"""Events to Kafka and to the webhook."""

from __future__ import annotations

from panels import graph

PANELS = [
    graph(
        "Events on Kafka per second",
        ("sum by (type) (rate(erratad_events_published_total[$__rate_interval]))", "{{type}}"),
        unit="cps",
        width=6,
    ),
    graph("Events that wait for Kafka", ("max(erratad_events_waiting)", "waiting"), width=6),
    graph(
        "Webhook: attempts per second",
        ("sum by (outcome) (rate(erratad_webhook_deliveries_total[$__rate_interval]))", "{{outcome}}"),
        unit="cps",
        width=6,
    ),
    graph(
        "Webhook: not delivered",
        ("max(release:erratad_webhook_events_waiting:leader)", "waiting"),
        ("max(erratad_webhook_events_dead and on (job, instance) erratad_leader == 1)", "given up"),
        about="Given up: after webhook.max_attempts; they are not sent again.",
        width=6,
    ),
]
