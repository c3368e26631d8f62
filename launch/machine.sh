#!/bin/bash
# Runs a job on this machine, and starts it again as a scheduler would.

# @prologue@
set -uo pipefail

# @settings@

# @supervise@

if [[ -n $BUCKET ]] && ! mountpoint --quiet "$BUCKET_MOUNT"; then
    command -v gcsfuse >/dev/null || {
        echo "error: the work directory is in a bucket, and gcsfuse is not installed; install it (tpu-vm: by \`startup\` lines of the site)" >&2
        exit 1
    }
    fusermount -u -z "$BUCKET_MOUNT" 2>/dev/null # a mount whose process is gone
    mkdir -p "$BUCKET_MOUNT" && gcsfuse "${GCSFUSE_FLAGS[@]}" "$BUCKET" "$BUCKET_MOUNT" || exit 1
fi
if [[ -n $CACHE ]]; then
    mkdir -p "$CACHE" || exit 1
fi

# shellcheck disable=SC2329 # it is: by supervise
run_container() {
    docker rm --force "$JOB_NAME" >/dev/null 2>&1 # what an attempt that was killed has left
    exec docker run --rm --name "$JOB_NAME" "${DOCKER_FLAGS[@]}" "$IMAGE" "${COMMAND[@]}"
}

if [[ -n $IMAGE ]]; then
    supervise run_container
else
    # systemd's path is not that of the person who rendered this.
    command -v "${COMMAND[0]}" >/dev/null || PATH=$PROGRAMS:$PATH
    supervise "${COMMAND[@]}"
fi
code=$?

# What systemd leaves of a unit's processes it kills, the mount's own among them.
[[ -z $BUCKET ]] || fusermount -u "$BUCKET_MOUNT" 2>/dev/null
case $CACHE in
/dev/shm/*) # memory is for others again; what a container has written there may be root's
    rm -rf -- "$CACHE" 2>/dev/null || {
        [[ -z $IMAGE ]] || docker run --rm --user=0 --entrypoint=/bin/rm --volume=/dev/shm:/shm "$IMAGE" -rf -- "/shm/${CACHE##*/}"
    }
    ;;
esac
exit "$code"
