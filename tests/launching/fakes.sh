#!/bin/bash
# Stands for srun, docker, gcsfuse and so on: notes its arguments and environment, and ends as the test says.
# FAKE/NAME.codes has one exit code a line: a number, KILL for a death by signal, or WAIT for a run that saves at SIGTERM.
name=${0##*/}
printf '%s\0' "$name" "$@" $'\x1e' >>"$FAKE/calls"
env --null >"$FAKE/$name.environment"
code=0
if [[ -s $FAKE/$name.codes ]]; then
    code=$(head -n 1 "$FAKE/$name.codes")
    sed -i 1d "$FAKE/$name.codes"
fi
[[ $name != scancel ]] || kill -TERM "$(cat "$FAKE/waiting")"
[[ ! -f $FAKE/$name.says ]] || cat "$FAKE/$name.says"
case $code in
WAIT)
    trap 'echo saving; read -r -t 0.2 <> <(:); echo saved; exit 42' TERM
    echo $$ >"$FAKE/waiting"
    echo started
    while :; do read -r -t 0.1 <> <(:) || true; done
    ;;
KILL) kill -KILL $$ ;;
*) exit "$code" ;;
esac
