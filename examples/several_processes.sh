#!/bin/sh
# Train on several devices, or here two processes of a CPU, that share every batch; interrupt it and run it again, and it
# goes on where it was.
#
#     sh examples/several_processes.sh [DATA] [EPOCHS] [PROCESSES] [DEVICE]    # DEVICE: cpu, or cuda for a GPU each
set -eu
torchrun --standalone --nproc-per-node "${3:-2}" -m vae_fast.train \
    --data "${1:-digits}" --epochs "${2:-10}" --batch-size 200 --device "${4:-cpu}" --out runs/several --resume auto
