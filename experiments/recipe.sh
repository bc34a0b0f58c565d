#!/usr/bin/env bash
# What makes `nano` learn more from the same number of tokens?
#
#   dvc repro && experiments/recipe.sh                   # about 25 minutes
#
# The default pipeline with 1,000,000 tokens, and one thing changed at a time. Steps of
# 2,048 tokens unless said otherwise; the rates fall over the last 88 % of the tokens, as
# by default. Two trainings at a time, on one core each; at the end a table of their
# results. Compare test_bits_per_byte: losses per token of different vocabularies cannot
# be compared.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1

try() {  # the experiment's name, then what is changed
    local name=$1
    shift
    dvc exp run --queue --name "$name" \
        -S train.max_tokens=1_000_000 \
        -S train.decay_tokens=880_000 \
        "$@" evaluate
}

try as-it-is
try shorter-blocks -S models.nano.block_size=64 -S train.batch_size=32
try longer-blocks -S models.nano.block_size=256 -S train.batch_size=8
try smaller-steps -S train.batch_size=8
try larger-steps -S train.batch_size=32
try smaller-vocabulary -S tokenize.vocab_size=1024
try larger-vocabulary -S tokenize.vocab_size=4096
try three-layers -S models.nano.num_layers=3
try slower-muon -S train.muon_learning_rate=2e-2
try faster-muon -S train.muon_learning_rate=5e-2
try faster-adamw -S train.learning_rate=6e-3
try no-weight-decay -S train.weight_decay=0

dvc queue start --jobs 2
while [ -n "$(dvc queue status | grep -E 'Queued|Running')" ]; do
    sleep 10
done
dvc exp show --hide-workspace --only-changed --sort-by test_bits_per_byte --csv
