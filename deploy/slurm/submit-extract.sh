#!/usr/bin/env bash
# An array of shards, and after it a job that does what they left and writes the snapshot.
#
#   submit-extract.sh SHARDS [OPTION of sbatch]... -- STUDIES --store URL [OPTION of `extractor run`]...
#
# Prints the ids of both. Jobs get PATH, HOME, USER and a few settings, but no secret of this shell: what is
# submitted is kept by Slurm's controller. Credentials come from the file that ENGRAM_ENVIRONMENT names.
set -euo pipefail

usage() {
  echo "submit-extract.sh: $1: expected SHARDS [OPTION of sbatch]... -- STUDIES --store URL [OPTION of \`extractor run\`]..." >&2
  exit 2
}

[[ "${1:-}" =~ ^[1-9][0-9]{0,5}$ ]] || usage "'${1:-}' is no number of shards"
shards=$1
shift

options=()
while [ "$#" -gt 0 ] && [ "$1" != "--" ]; do
  options+=("$1")
  shift
done
[ "$#" -gt 1 ] || usage "there is no study table after --"
shift

script="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/extract.sbatch"
names="PATH,HOME,USER"
for name in ENGRAM_ENVIRONMENT ENGRAM_RESTARTS ENGRAM_LOG_FORMAT ENGRAM_CACHE; do
  if [ -n "${!name:-}" ]; then names+=",$name"; fi
done

array=$(sbatch --parsable --export="$names" --array="1-$shards" "${options[@]}" "$script" "$@")
array=${array%%;*} # on a federation the cluster's name follows
# afterany: a shard that failed leaves work, and this job does it.
complete=$(sbatch --parsable --export="$names" --job-name=engram-complete --output=%x-%j.log \
  --dependency="afterany:$array" "${options[@]}" "$script" "$@")
echo "array $array"
echo "complete ${complete%%;*}"
