#!/usr/bin/env bash
# What the demo's result is worth: the same commands with as many pairs at random, and with far too much training.
# Needs a finished `make demo`; prints each arm's win rates. Call it in the virtual environment:
#     benchmarks/demo_world/demo_control.sh run
set -euo pipefail

run="$1"
export PAIRSIEVE_RUN="$run"

judge() { # judge NAME: draw, score and compare what lies in trained-NAME
    train sample --model "$run/trained-$1/model" --output "$run/sampled-$1" --images-per-prompt 2 --steps 10 --guidance 1
    curate embed --run "$run/evaluation-$1" --manifest "$run/sampled-$1/manifest.toml" --scorers clip,pickscore,aesthetic,hpsv2
    curate compare --run "$run/evaluation-$1"
    python -m benchmarks.demo_world.truth "$run/sampled-$1/pairs.parquet"
}

curate rank --metric benchmarks/demo_world/random.sql --name random --top 0.0533
curate export-shards --name random --output "$run/shards-random"
train run --shards "$run/shards-random" --output "$run/trained-random" --resume
judge random

train run --shards "$run/shards" --output "$run/trained-long" --steps 150 --lr 3e-5 --resume
judge long
