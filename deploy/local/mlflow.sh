#!/usr/bin/env bash
# The tests start an MLflow server of their own. It lives in an environment of its own, because it pins packages that
# vLLM and the daemon use in other versions; this makes sure that it is there, in the cache outside the repository.
set -euo pipefail
version=3.17.2
folder="${ERRATAD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/erratad}/mlflow-$version"
if [ -e "$folder/.ready" ]; then
    exit 0
fi
echo "test: installing MLflow $version into $folder (some minutes, once)" >&2
rm -rf "$folder"
if ! { "${PYTHON:-python3}" -m venv "$folder" && "$folder/bin/pip" install --quiet "mlflow==$version"; }; then
    echo "test: MLflow cannot be installed; tests that need it are skipped" >&2
    exit 0
fi
touch "$folder/.ready"
