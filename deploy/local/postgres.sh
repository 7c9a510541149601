#!/usr/bin/env bash
# The tests start a PostgreSQL of their own; this makes sure that its programs are installed (Debian and Ubuntu, as root).
set -euo pipefail
if compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null; then
    exit 0
fi
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql
else
    echo "test: PostgreSQL is not installed; tests that need it are skipped (apt-get install postgresql)" >&2
fi
