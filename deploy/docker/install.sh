#!/usr/bin/env bash
# Installs erratad into a virtual environment: `make setup`, the image's build and a plain machine all run this.
# Usage: install.sh VENV cpu|gpu PIP-ARGUMENT...    e.g. install.sh /opt/erratad cpu '.[cpu]'
set -euo pipefail
venv=${1:?"usage: install.sh VENV cpu|gpu PIP-ARGUMENT..."}
flavour=${2:?"usage: install.sh VENV cpu|gpu PIP-ARGUMENT..."}
shift 2
python=${PYTHON:-python3}
constraints=$(dirname "$0")/../local/constraints.txt

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "install: Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2
    exit 1
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"

echo "install: erratad with the $flavour build of vLLM (about 4 GB the first time)"
"$venv/bin/python" -m pip install --quiet --constraint "$constraints" "$@"

if [ "$flavour" = cpu ]; then
    # The CPU build of vLLM pulls CUDA builds of these three. They cannot be imported without CUDA, and transformers
    # breaks on that ("operator torchvision::nms does not exist"); nothing here needs them.
    "$venv/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
fi
