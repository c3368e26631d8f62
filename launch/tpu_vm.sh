#!/bin/bash
# Startup script of a TPU VM: runs as root on every host of every slice, at every boot.
set -euo pipefail

# @settings@

# @startup@

# A registry (a first part with a dot) is read as the machine's service account. Others need no login, or one of `startup`.
registry=${IMAGE%%/*}
if [[ $IMAGE == */* && $registry == *.* ]]; then
    gcloud --quiet auth configure-docker "$registry" || echo "docker is not logged in to $registry" >&2
fi

mkdir -p "$FOLDER"
# @files@
systemctl daemon-reload
# At every boot this script starts it, so that it need not be enabled.
systemctl restart --no-block "$UNIT"
