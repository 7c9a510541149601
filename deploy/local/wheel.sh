#!/usr/bin/env bash
# Builds wheel, source archive and SBOM into dist/, checks them, and runs the wheel in an empty environment.
# Usage: wheel.sh VENV; DEPENDENCIES=download installs the wheel's 4 GB of dependencies, too, instead of using VENV's.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=$(realpath "${1:-.venv}")
tools=build/release-tools
sbom_extras=${SBOM_EXTRAS:-cpu}

# beside the tests' environment: these packages would change what it checks
[ -x "$tools/bin/cyclonedx-py" ] || {
    "$venv/bin/python" -m venv "$tools"
    "$tools/bin/pip" install --quiet build==1.6.1 twine==7.0.0 cyclonedx-bom==7.5.0
}

rm -rf dist build/lib build/bdist.*
"$tools/bin/python" -m build --outdir dist . > build/release.log
"$tools/bin/twine" check --strict dist/*
wheel=$(realpath dist/*.whl)
"$tools/bin/cyclonedx-py" environment "$venv/bin/python" --pyproject pyproject.toml --output-reproducible -o build/environment.cdx.json
"$venv/bin/python" -m deploy.local.sbom build/environment.cdx.json "${wheel%-py3-none-any.whl}.cdx.json" "$sbom_extras"

empty=$(mktemp -d)
trap 'rm -rf "$empty"' EXIT
"$venv/bin/python" -m venv "$empty/env"
if [ "${DEPENDENCIES:-}" = download ]; then
    "$empty/env/bin/pip" install --quiet "${wheel}[demo]"
else
    "$empty/env/bin/pip" install --quiet --no-deps "$wheel"
    site=("$empty"/env/lib/python*/site-packages)
    "$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' > "${site[0]}/dependencies.pth"
fi
model=$("$venv/bin/python" -c 'from daemon.demo.model import NAME, cache_dir; print(cache_dir() / NAME)')
cd "$empty"
unset PYTHONPATH ERRATAD_CONFIG
env/bin/erratad version
env/bin/erratad demo --help > /dev/null
env/bin/erratad init --model "$model"
env/bin/erratad check-config --config erratad.yaml > /dev/null
echo "wheel: $wheel works alone"
