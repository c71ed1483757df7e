#!/usr/bin/env bash
# Train on several machines: run this on every one of them, with the same arguments.
#   HEAD=node-a NODES=4 recipes/launch/several-nodes.sh recipes/flan-t5-xxl.yaml --data DIR --runs /shared/runs
# HEAD is a machine that all of them reach, one of them; the run's folder must be on a file system that all share.
set -euo pipefail
: "${HEAD:?set HEAD to the name or address of one of the machines}"
: "${NODES:?set NODES to the number of machines}"
PORT=${PORT:-29400}
PROCESSES=${PROCESSES:-$(nvidia-smi --list-gpus | wc -l)}
exec torchrun --nnodes "$NODES" --nproc-per-node "$PROCESSES" \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD:$PORT" --rdzv-id "${RUN_ID:-flantune}" \
    -m flantune train "$@"
