#!/usr/bin/env bash
# Second half of the demo: models judged by the training cluster, the report, and the run published by the service.
set -euo pipefail
work=${ENGRAM_DEMO_WORK:-/srv/engram/demo}
scheduler=${ENGRAM_DEMO_SCHEDULER:-tls://train-scheduler:8786}
project=${ENGRAM_DEMO_SERVICE:?is where the service answers, such as http://service:8000}/v1/projects/demo
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "4/5  Five-fold cross-validation: clinical, image, both, and a control with permuted outcomes, by $scheduler"
trainer cv --store s3://engram/demo --clinical "$work/cohort/clinical.csv" --config "$work/cohort/cv.yaml" \
  --oracle "$work/cohort/truth.csv" --out "$work/run" --scheduler "$scheduler"

say "5/5  The report, and the run published through the service"
trainer report "$work/run"
ENGRAM_API_KEY=$(cat "$work/api-key")
export ENGRAM_API_KEY
trainer publish "$work/run" --store "$project"
store-schema ls "$project"

cat <<END

The cohort is synthetic and the network untrained: nothing here says anything about patients.
Take the report:   docker compose --profile demo cp demo:$work/run/report.html .
Look at the store: http://127.0.0.1:8000, with a key by docker compose exec service feature-store admin keys create demo --label me
END
