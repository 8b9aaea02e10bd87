#!/usr/bin/env bash
# First half of the demo: a synthetic cohort with a known, planted signal, and its embeddings by the extraction cluster.
set -euo pipefail
work=${ENGRAM_DEMO_WORK:-/srv/engram/demo}
patients=${ENGRAM_DEMO_PATIENTS:-120}
scheduler=${ENGRAM_DEMO_SCHEDULER:-tls://extract-scheduler:8786}
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "1/5  A synthetic cohort: $patients patients with PET, CT, a label map and months to progression"
if [ ! -e "$work/cohort/studies.csv" ]; then
  extractor phantom --out "$work/cohort" --patients "$patients" --seed 0
fi

say "2/5  Memory embeddings of every patient, PET and CT, into the store on S3, by $scheduler"
extractor run "$work/cohort/studies.csv" --store s3://engram/demo --config "$work/cohort/extract.yaml" --weights random:0 \
  --scheduler "$scheduler"

say "3/5  Every object of the store against its digest"
store-schema verify s3://engram/demo
