#!/usr/bin/env bash
# The first toyGPT's run, on one GPU: `small`, GPT-2's tokenizer, Wikisource and
# RedPajama's sample. NOT YET RUN as a whole: what is computed below is arithmetic, and
# the recipe a first guess. What is measured says so.
#
#   experiments/seed.sh                                      # all of it
#   experiments/seed.sh -S download.max_bytes=200_000_000 \
#       -S train.max_tokens=40_000_000 -S train.warmup_tokens=2_000_000 \
#       -S train.decay_tokens=30_000_000 -S train.validate_every_tokens=5_000_000
#                                     # a trial, of the beginning of Wikisource alone
#
# To fetch: 6.8 GB (Wikisource 1.4, RedPajama 5.4), 9 minutes at 100 Mbit/s. They stay in
#   the hub's cache (~/.cache/huggingface, or $HF_HOME): 6.8 GB of disk there.
# Tokens: the first toyGPT counted 1.531 B, 98 % of them for training: 1.50 B. About
#   4.4 bytes each, as English has them with GPT-2's tokenizer: 6.7 GB of text.
#   Tokenizing takes some two minutes (2 GB took half a minute on two cores).
# Disk here: documents about 3 GB (compressed), tokens 1.531 B x 2 bytes = 3.1 GB, splits
#   as much again; where the disk cannot share copies with DVC's cache, all of it twice.
# Steps: 256 sequences x 512 tokens = 131,072 tokens each; 1.5 B / 131,072 = 11,445 steps.
# Time: each token costs 6 x 123.7 M (weights) + 12 x 12 layers x 768 x 512 (attention)
#   = 0.80 GFLOP, all of it 1.2e18. An H100 does 989 TFLOP/s at most in bf16: 45 minutes
#   at 45 % of that, 67 minutes at 30 %.
# Memory on the GPU, with 64 sequences at once: 14 GiB, measured on an H100. Its 80 GB take
#   128 (runtime.micro_batch_size: auto); a smaller GPU takes fewer: the same result but for
#   rounding.
# Learning rates: the rates rise over 20 M tokens (153 steps) and fall over the last 60 %.
set -euo pipefail
cd "$(dirname "$0")/.."

dvc exp run --name seed \
    -S corpus=seed \
    -S tokenize.tokenizer=openai-community/gpt2@607a30d783dfa663caf39e06633721c8d4cfcd7e \
    -S split.validation_fraction=0.01 \
    -S split.test_fraction=0.01 \
    -S model=small \
    -S train.max_tokens=1_500_000_000 \
    -S train.batch_size=256 \
    -S train.muon_learning_rate=2e-2 \
    -S train.learning_rate=1e-3 \
    -S train.warmup_tokens=20_000_000 \
    -S train.decay_tokens=900_000_000 \
    -S train.precision=bf16-mixed \
    -S train.validate_every_tokens=50_000_000 \
    -S train.validation_tokens=1_048_576 \
    -S evaluate.batch_size=64 \
    -S 'generate-samples.prompts=["Once upon a time","The theory of","def main("]' \
    "$@"
