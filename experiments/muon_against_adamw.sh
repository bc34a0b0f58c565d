#!/usr/bin/env bash
# How many tokens does Muon need to learn what AdamW learns from a million?
#
#   dvc repro && experiments/muon_against_adamw.sh       # about a quarter of an hour
#
# AdamW: three learning rates, three seeds each, 1,000,000 tokens.
# Muon: the default rates, three seeds, 600,000 tokens.
# All else is the default; the rates fall over the last 88 % of the tokens, as there.
# Two trainings at a time, on one core each; at the end a table of their results.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1

dvc exp run --queue --name adamw \
    -S seed=1,2,3 \
    -S train.optimizer=adamw \
    -S train.learning_rate=5e-4,1e-3,2e-3 \
    -S train.max_tokens=1_000_000 \
    -S train.decay_tokens=880_000 \
    train

dvc exp run --queue --name muon \
    -S seed=1,2,3 \
    -S train.max_tokens=600_000 \
    -S train.decay_tokens=528_000 \
    train

dvc queue start --jobs 2
while [ -n "$(dvc queue status | grep -E 'Queued|Running')" ]; do
    sleep 10
done
dvc exp show --hide-workspace --only-changed --sort-by validation_loss --csv
