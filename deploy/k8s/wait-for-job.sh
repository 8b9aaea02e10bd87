#!/usr/bin/env bash
# Waits until a Job of Engram has ended. `kubectl wait` waits for one condition, and a Job that failed never becomes complete.
#
#   wait-for-job.sh JOB
#
# Ends with status 0 if the Job is complete, and with 1 if it failed or cannot be asked for.
set -euo pipefail

if [ "$#" -ne 1 ]; then
  echo "wait-for-job.sh: expected the name of a Job, such as extract; got $# words" >&2
  exit 2
fi
while :; do
  conditions=$(kubectl -n engram get "job/$1" --output='jsonpath={.status.conditions[?(@.status=="True")].type}')
  case " $conditions " in
    *" Complete "*) exit 0 ;;
    *" Failed "*)
      echo "wait-for-job.sh: $1 failed: see \`kubectl -n engram describe job/$1\` and \`kubectl -n engram logs job/$1\`" >&2
      exit 1
      ;;
  esac
  sleep "${ENGRAM_LOOK_S:-10}"
done
