#!/usr/bin/env bash
# The tests run Prometheus, promtool and amtool; this makes sure that they are installed (Debian and Ubuntu, as root).
set -euo pipefail
if command -v prometheus >/dev/null && command -v promtool >/dev/null && command -v amtool >/dev/null; then
    exit 0
fi
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus prometheus-alertmanager
else
    echo "test: Prometheus is not installed; tests that need it are skipped (apt-get install prometheus prometheus-alertmanager)" >&2
fi
