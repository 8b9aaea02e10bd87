#!/usr/bin/env bash
# The demo's project: its store on S3, and a key for a day that lets the demo publish by the service.
set -euo pipefail
umask 077
work=${ENGRAM_DEMO_WORK:-/srv/engram/demo}

# Tried out first: a server that lets two writers create the same name is refused here.
store-schema init s3://engram/demo
# `grep -q` would end before the list does, which counts as a failure of the list
if ! feature-store admin projects list --json | grep '"project": *"demo"' >/dev/null; then
  feature-store admin projects create demo --store s3://engram/demo
fi
mkdir -p "$work"
feature-store admin keys create demo --scope write --label demo --expires-days 1 >"$work/api-key.new"
mv "$work/api-key.new" "$work/api-key"
