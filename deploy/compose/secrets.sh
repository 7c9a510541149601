#!/usr/bin/env bash
# Makes the secret files that compose.yaml mounts, each with a random value; existing files stay.
# The folder is closed to others. The files in it are readable, because the containers' users read them.
set -euo pipefail
folder=$(dirname "$0")/secrets
install -d -m 0700 "$folder"
for name in db_password admin_token vllm_api_key http_token grafana_password; do
    [ -e "$folder/$name" ] && continue
    head -c 32 /dev/urandom | base64 | tr -d '+/=\n' >"$folder/$name"
    chmod 0444 "$folder/$name"
    echo "secrets: made $folder/$name"
done
