#!/usr/bin/env bash
@@DIRECTIVES@@

# Written by qaflow @@VERSION@@ from @@CONFIG@@; write it anew rather than edit it.
#
# One rule: this job is COMPLETED only when every item is done. The run's exit codes stay as they are (0 done, 1 error,
# 2 wrong configuration, 3 too many failures), except 75, "interrupted": then the job is requeued and goes on there.
#
#   preemption          the step gets SIGTERM, finishes what is in flight and exits 75; we requeue
#   time limit near     we get SIGUSR1 @@WARN@@ s before it and pass it on; the same
#   requeue, scancel    step and we get SIGTERM; Slurm has decided already, so we leave it at that
#   the step is killed  it is started again here, at most @@RESTARTS@@ times
#   the node dies       Slurm requeues the job; nothing committed is lost
set -uo pipefail

job=$SLURM_JOB_ID
if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
say() { echo "$(date +%FT%T%z) job $job on $(hostname -s): $*"; }
pause() { sleep "$1" & wait $! || true; } # unlike sleep alone, it lets a trap run at once

step='' stopping='' at_limit='' signalled=''
# shellcheck disable=SC2317 # it is called by the traps
stop() { # SIGNAL
  say "SIG$1: taking no new work"
  stopping=1 signalled=1
  # srun hands USR1 to the run, which drains; a SIGTERM to srun itself would kill the step.
  if [ -n "$step" ]; then kill -USR1 "$step" 2>/dev/null || true; fi
}
trap 'stop TERM' TERM
trap 'at_limit=1; stop USR1' USR1

# Puts the job back into the queue, unless Slurm is ending it already: then it is Slurm's or a person's decision
# whether it runs again. Tries for ten minutes, since the controller may be away.
requeue() {
  local tries state
  for ((tries = 0; tries < 120; tries++)); do
    if state=$(squeue -h -j "$SLURM_JOB_ID" -o %T 2>/dev/null) && [ -n "$state" ]; then
      if [ "$state" = COMPLETING ] && [ -z "$at_limit" ]; then
        say "Slurm is ending this job already: it decides whether it runs again"
        return
      fi
      if scontrol requeue "$SLURM_JOB_ID"; then
        say "requeued: it goes on there"
        return
      fi
    fi
    pause 5
  done
  say "the job could not be requeued; submit it again: it goes on where it was"
}

say "restart ${SLURM_RESTART_COUNT:-0}"
cd -- @@DIRECTORY@@ || exit 1
@@MODULES@@@@SETUP@@
hold=$(mktemp -u "${TMPDIR:-/tmp}/qaflow-hold.XXXXXX")
export QAFLOW_HOLD_FILE=$hold
@@SERVER@@
# The run is a step of its own, so that a notice of preemption reaches it.
code=75
for ((again = 0; again <= @@RESTARTS@@; again++)); do
  if [ -n "$stopping" ]; then break; fi
  srun --ntasks=1 --nodes=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --overlap @@COMMAND@@ &
  step=$!
  while :; do # a signal ends `wait` before the step has ended
    signalled=''
    wait "$step"
    code=$?
    if [ -z "$signalled" ]; then break; fi
  done
  step=''
  if [ "$code" -lt 128 ] || [ -n "$stopping" ]; then break; fi
  say "the step was killed (exit code $code); it goes on where it was"
  pause 2
done
@@SERVER_END@@
case $code in
  0) say "everything is done" ;;
  75)
    if [ -e "$hold" ]; then
      rm -f "$hold"
      say "stopped for a reason that only a person can lift, see above: not requeued"
    else
      requeue
    fi
    ;;
  *)
    say "ended with exit code $code"
    # Cut off while it was stopping: whatever was in flight is pending, and the next attempt goes on.
    if [ "$code" -ge 128 ] && [ -n "$stopping" ]; then requeue; fi
    ;;
esac
exit "$code"
