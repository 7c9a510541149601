"""The health of the daemon: stages, database, disk, memory."""

from __future__ import annotations

from panels import figure, graph, timeline

PANELS = [
    graph(
        "Since the last step",
        ("time() - max by (stage) (erratad_stage_last_step_timestamp_seconds)", "{{stage}}"),
        unit="s",
        about="A stage that waits or is paused makes steps too.",
    ),
    timeline(
        "Connected, leading",
        ("max by (instance) (erratad_kafka_connected)", "{{instance}}: Kafka"),
        ("max by (instance) (erratad_leader)", "{{instance}}: leads"),
        words={"1": ("yes", "green"), "0": ("no", "orange")},
    ),
    timeline(
        "Paused",
        ("max by (stage) (erratad_stage_paused)", "{{stage}}"),
        words={"1": ("paused", "orange"), "0": ("runs", "green")},
        width=8,
    ),
    graph(
        "Questions at the model servers",
        ("max by (instance) (erratad_asking_limit)", "{{instance}}"),
        about="How many of the daemon's own questions may be in flight. Low while users ask.",
        width=8,
    ),
    graph(
        "Steps without a database, per second",
        ("sum by (instance) (rate(erratad_store_errors_total[$__rate_interval]))", "{{instance}}"),
        unit="cps",
        width=8,
    ),
    graph(
        "Free disk",
        ("min by (instance) (instance:erratad_data_dir_free:ratio)", "{{instance}}"),
        unit="percentunit",
        width=8,
    ),
    graph(
        "Memory of the daemon",
        ('process_resident_memory_bytes{job="erratad"}', "{{instance}}"),
        unit="bytes",
        width=8,
    ),
    graph(
        "CPU of the daemon",
        ('rate(process_cpu_seconds_total{job="erratad"}[$__rate_interval])', "{{instance}}"),
        about="Cores.",
        width=8,
    ),
    graph("Open files", ('process_open_fds{job="erratad"}', "{{instance}}"), width=8),
    figure("Up since", ('time() - process_start_time_seconds{job="erratad"}', "{{instance}}"), unit="s", width=8),
    figure("Version", ("max by (version) (erratad_build_info)", "{{version}}"), width=8),
]
