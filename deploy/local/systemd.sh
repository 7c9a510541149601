#!/usr/bin/env bash
# The tests check the units with systemd-analyze; this makes sure that it is installed (Debian and Ubuntu, as root).
set -euo pipefail
if command -v systemd-analyze >/dev/null; then
    exit 0
fi
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends systemd
else
    echo "test: systemd-analyze is not installed; tests that need it are skipped (apt-get install systemd)" >&2
fi
