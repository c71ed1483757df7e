#!/usr/bin/env bash
# Train on all GPUs of this machine (on a machine without any: as many processes as PROCESSES says, over gloo).
#   recipes/launch/one-node.sh recipes/flan-t5-large.yaml --data DIR
# The same command goes on after an interruption, with any number of GPUs.
set -euo pipefail
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)
PROCESSES=${PROCESSES:-$(( gpus > 0 ? gpus : 1 ))}
if [ "$gpus" -eq 0 ]; then
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( $(nproc) / PROCESSES > 0 ? $(nproc) / PROCESSES : 1 ))}
fi
exec torchrun --standalone --nproc-per-node "$PROCESSES" -m flantune train "$@"
