#!/usr/bin/env bash
# The whole job on the bundled miniature world, with the commands that a user types, in any folder. `make demo` calls it.
set -euo pipefail

run="$1"
here="$(cd "$(dirname "$0")/../.." && pwd)"
prompts="$here/data_manifests/demo/prompts/heldout.txt"
scorers=clip,pickscore,aesthetic,hpsv2
unset PAIRSIEVE_RUN # so that what is shown can be pasted anywhere and does the same
mkdir -p "$run"
if [[ -n "${DEMO_PROMPTS:-}" ]]; then
    head -n "$DEMO_PROMPTS" "$prompts" > "$run/prompts.txt"
    prompts="$run/prompts.txt"
fi

step() { printf '\n$ %s\n' "$*" >&2; "$@"; }

step curate embed --run "$run" --scorers "$scorers"
step curate rank --run "$run" --top 0.0533
step curate export-shards --run "$run"
step train run --shards "$run/shards" --resume ${DEMO_STEPS:+--steps "$DEMO_STEPS"}
step train sample --model "$run/trained/model" --prompts "$prompts" --output "$run/sampled" \
    --images-per-prompt 2 --steps 10 --guidance 1 --grid "$run/grid.png"
step curate embed --run "$run/evaluation" --manifest "$run/sampled/manifest.toml" --scorers "$scorers"
step curate compare --run "$run/evaluation"
step env PYTHONPATH="$here" python -m benchmarks.demo_world.truth "$run/sampled/pairs.parquet"
printf 'page  %s\ngrid  %s\n' "$run/evaluation/compare.html" "$run/grid.png"
