#!/bin/bash
# @sbatch@

# @prologue@
set -uo pipefail

# @settings@

# @supervise@

# Of an array's last job the number is also that of the whole array.
SELF=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID:-}}
SELF=${SELF:-$SLURM_JOB_ID}

# srun would kill its tasks at SIGTERM; scancel sends them the signal and nothing else.
# shellcheck disable=SC2329 # it is: by the trap
hand_on() {
    scancel --signal=TERM "$SELF" 2>/dev/null # of a job that was cancelled they have it
}

# What sbatch was asked for holds for the step, too (since SLURM 22.05 only if said so).
[[ -z ${SLURM_CPUS_PER_TASK:-} ]] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# A process whose peer died saves nothing and ends by itself; so do all after SIGTERM, when they have saved. Nobody is
# killed before the grace period is over.
supervise srun --kill-on-bad-exit=0 --wait="$GRACE_SECONDS" "${SRUN[@]}" "${CONTAINER[@]}" "${COMMAND[@]}"
code=$?

# @clean_up@

# The time limit comes: wait in the queue again. (A job that was cancelled or preempted is not running any more.)
if ((code == 42 && stopped && ${SLURM_RESTART_COUNT:-0} < MAX_RESTARTS)); then
    [[ $(scontrol show job "$SELF") != *JobState=RUNNING* ]] || scontrol requeue "$SELF"
fi
exit "$code"
