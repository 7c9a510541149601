#!/bin/sh
# `erratad` with the arguments given. ERRATAD_X_FILE=/run/secrets/x becomes ERRATAD_X=<the file's content>.
set -eu
for name in $(env | sed -n 's/^\(ERRATAD_[A-Z0-9_]*\)_FILE=.*/\1/p'); do
    file=$(printenv "${name}_FILE")
    if [ ! -r "$file" ]; then
        echo "entrypoint: ${name}_FILE names $file, which cannot be read; mount the secret there" >&2
        exit 2
    fi
    export "$name=$(cat "$file")"
    unset "${name}_FILE"
done
exec erratad "$@"
