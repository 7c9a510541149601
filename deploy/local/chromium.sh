#!/usr/bin/env bash
# The browser tests drive Chromium; this makes sure that it and its driver are installed (Debian, as root).
set -euo pipefail
if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then
    exit 0
fi
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core
else
    echo "test: Chromium is not installed; tests that need it are skipped (apt-get install chromium chromium-driver)" >&2
fi
