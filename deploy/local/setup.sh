#!/usr/bin/env bash
# Makes the virtual environment and the demo model; safe to run again. Usage: setup.sh VENV cpu|gpu
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=${1:-.venv}
flavour=${2:-cpu}

deploy/docker/install.sh "$venv" "$flavour" --editable ".[$flavour,test]"
"$venv/bin/python" -c "from daemon.demo.model import main; main()"
"$venv/bin/python" deploy/local/helm.py
touch "$venv/.ready-$flavour"
echo "setup: done"
