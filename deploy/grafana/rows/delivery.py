"""Events to Kafka, to the webhook and to MLflow."""

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
        "Webhook, MLflow: attempts per second",
        ("sum by (sink, outcome) (rate(erratad_delivery_attempts_total[$__rate_interval]))", "{{sink}}: {{outcome}}"),
        unit="cps",
        width=6,
    ),
    graph(
        "Webhook, MLflow: not delivered",
        ("max by (sink) (release:erratad_delivery_events_waiting:leader)", "{{sink}}: waiting"),
        (
            "max by (sink) (erratad_delivery_events_dead and on (job, instance) erratad_leader == 1)",
            "{{sink}}: given up",
        ),
        about="Given up: after max_attempts refusals; they are not sent again.",
        width=6,
    ),
]
