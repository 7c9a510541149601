#!/usr/bin/env bash
# Makes the virtual environment and the demo model; safe to run again. Usage: setup.sh VENV cpu|gpu
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=${1:-.venv}
flavour=${2:-cpu}
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "setup: Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2
    exit 1
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"

echo "setup: installing erratad with the $flavour build of vLLM (about 4 GB the first time)"
"$venv/bin/python" -m pip install --quiet --constraint deploy/local/constraints.txt --editable ".[$flavour,demo,test]"

if [ "$flavour" = cpu ]; then
    # The CPU build of vLLM pulls CUDA builds of these three. They cannot be imported without CUDA, and transformers
    # breaks on that ("operator torchvision::nms does not exist"); nothing here needs them.
    "$venv/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
fi

"$venv/bin/python" deploy/local/demo_model.py
touch "$venv/.ready-$flavour"
echo "setup: done"
