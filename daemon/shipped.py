"""Files that come with erratad: configurations, alert rules, dashboards, units of systemd.

They lie inside the package. In a checkout, links there lead to configs/ and deploy/.
"""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).parent / "data"
CONFIGS = (SHIPPED / "configs").resolve()
"""`default.yaml` explains every key."""
DEPLOY = SHIPPED / "deploy"
"""Files for Prometheus, Alertmanager, Grafana and systemd."""
