"""GPUs, as NVIDIA's DCGM exporter shows them (job `dcgm`); without it the panels are empty."""

from __future__ import annotations

from panels import graph

GPU = "{{Hostname}} GPU {{gpu}}"
MIB = 2**20

PANELS = [
    graph("Utilisation", ("DCGM_FI_DEV_GPU_UTIL / 100", GPU), unit="percentunit", width=8),
    graph(
        "Memory",
        (f"DCGM_FI_DEV_FB_USED * {MIB}", f"{GPU} used"),
        (f"DCGM_FI_DEV_FB_FREE * {MIB}", f"{GPU} free"),
        unit="bytes",
        width=8,
    ),
    graph("Power", ("DCGM_FI_DEV_POWER_USAGE", GPU), unit="watt", width=8),
    graph("Temperature", ("DCGM_FI_DEV_GPU_TEMP", GPU), unit="celsius", width=8),
    graph(
        "Latest XID error",
        ("DCGM_FI_DEV_XID_ERRORS", GPU),
        about="A number of NVIDIA's list of XID errors; 0: none.",
        width=8,
    ),
]
