#!/usr/bin/env bash
# The whole job on the bundled miniature world, with the commands that a user types, in any folder. `make demo` calls it.
set -euo pipefail

run="$1"
here="$(cd "$(dirname "$0")/../.." && pwd)"
prompts="$here/data_manifests/demo/prompts/heldout.txt"
mkdir -p "$run"
if [[ -n "${DEMO_PROMPTS:-}" ]]; then
    head -n "$DEMO_PROMPTS" "$prompts" > "$run/prompts.txt"
    prompts="$run/prompts.txt"
fi
export PAIRSIEVE_RUN="$run"

step() { printf '\n$ %s\n' "$*" >&2; "$@"; }

step curate embed --scorers clip,pickscore,aesthetic,hpsv2
step curate rank --top 0.0533
step curate export-shards
step train run --shards "$run/shards" --resume ${DEMO_STEPS:+--steps "$DEMO_STEPS"}
step train sample --model "$run/trained/model" --prompts "$prompts" --output "$run/sampled" \
    --images-per-prompt 2 --steps 10 --guidance 1 --grid "$run/grid.png"
export PAIRSIEVE_RUN="$run/evaluation"
step curate embed --manifest "$run/sampled/manifest.toml" --scorers clip,pickscore,aesthetic,hpsv2
step curate compare
PYTHONPATH="$here" step python -m benchmarks.demo_world.truth "$run/sampled/pairs.parquet"
printf 'page  %s\ngrid  %s\n' "$run/evaluation/compare.html" "$run/grid.png"
