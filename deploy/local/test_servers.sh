#!/usr/bin/env bash
# The tests start an MLflow server, a LiteLLM proxy, a vLLM router, an S3 server (Moto) and a Ray cluster. Each lives in an environment of its own: the first
# four pin packages that vLLM and the daemon use in other versions, and where Ray is installed, each vLLM imports it at its start.
# This makes sure that all are there, in the cache outside the repository.
set -euo pipefail
mlflow=3.17.2
litellm=1.106.12 # 1.107.0 was compromised
router=0.1.17
ray=2.60.0
moto=5.2.5
root="${ERRATAD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/erratad}"

# two test runs of one user wait for each other
mkdir -p "$root"
exec 9>"$root/.test-servers.lock"
! command -v flock >/dev/null || flock 9

# install NAME VERSION REQUIREMENT...
install() {
    local name=$1 version=$2
    local folder="$root/$name-$version"
    shift 2
    if [ -e "$folder/.ready" ]; then
        return
    fi
    echo "test: installing $name $version into $folder (some minutes, once)" >&2
    rm -rf "$folder"
    if "${PYTHON:-python3}" -m venv "$folder" && "$folder/bin/pip" install --quiet "$@"; then
        touch "$folder/.ready"
    else
        echo "test: $name cannot be installed; tests that need it are skipped" >&2
    fi
}

install mlflow "$mlflow" "mlflow==$mlflow"
install litellm "$litellm" "litellm[proxy]==$litellm"
install router "$router" "vllm-router==$router"
install moto "$moto" "moto[s3]==$moto" flask flask-cors
# its workers train with the packages of the tests' environment, so Ray's own go with those
PIP_CONSTRAINT=deploy/local/constraints.txt install ray "$ray" "ray[default,train]==$ray"
