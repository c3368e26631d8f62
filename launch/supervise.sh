#!/bin/bash
# Included by the other scripts of this folder.

stopped=0 # how often somebody asked for an end
child=
pause=

# How a command that runs is asked for an end. A scheduler may have a way of its own.
# shellcheck disable=SC2329 # it is: by the trap
hand_on() {
    kill -TERM "$child" 2>/dev/null
}

# shellcheck disable=SC2329 # it is: by the trap
ask_for_end() {
    stopped=$((stopped + 1))
    [[ -z $child ]] || hand_on
    [[ -z $pause ]] || kill "$pause" 2>/dev/null
}
trap ask_for_end TERM INT

# Waits for a child to the end. A signal ends `wait` early, and the next one knows the exit code.
wait_for() {
    local seen code
    while :; do
        seen=$stopped
        wait "$1"
        code=$?
        ((seen == stopped)) && return "$code"
    done
}

# Runs a command until it is done. Exit code 42 (run me again) and a death by signal (more than 128) start it again, at
# most MAX_RESTARTS times, and then it is 1: whoever starts on 42 would never stop. Any other code is the end. Who was
# asked for an end gives 42, once the command has saved.
supervise() {
    local code restarts=0
    while :; do
        ((stopped)) && return 42
        "$@" </dev/null &
        child=$!
        wait_for "$child"
        code=$?
        child=
        ((code != 42 && code <= 128)) && return "$code"
        ((stopped)) && return 42
        if ((restarts >= MAX_RESTARTS)); then
            echo "$JOB_NAME: ended with exit code $code, after $restarts restarts; the same job continues it" >&2
            return 1
        fi
        restarts=$((restarts + 1))
        echo "$JOB_NAME: ended with exit code $code; starting it again ($restarts of at most $MAX_RESTARTS)" >&2
        sleep "${RESTART_SECONDS:-10}" &
        pause=$!
        wait_for "$pause"
        pause=
    done
}
