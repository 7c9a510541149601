#!/usr/bin/env bash
# The tests run PostgreSQL, systemd-analyze, ip, Chromium, Prometheus and their tools; this makes sure that they are installed
# (Debian and Ubuntu, as root).
set -euo pipefail
missing=()

# needs PACKAGES PROGRAM...
needs() {
    local packages=$1 program
    shift
    for program in "$@"; do
        if ! command -v "$program" >/dev/null; then
            read -ra packages <<<"$packages"
            missing+=("${packages[@]}")
            return
        fi
    done
}

compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || needs postgresql initdb
needs systemd systemd-analyze
needs iproute2 ip
needs "chromium chromium-driver fonts-dejavu-core" chromium chromedriver
needs "prometheus prometheus-alertmanager" prometheus promtool amtool

if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
else
    echo "test: tests that need these are skipped: apt-get install ${missing[*]}" >&2
fi
