#!/usr/bin/env bash
# Train on two machines of 8 GPUs with torchrun. On each, with its number and the address of machine 0:
#   NODE=0 HEAD=10.0.0.1 examples/cluster/torchrun.sh --dataset k400 --output /shared/runs/k400
# --output must be on a disk that both machines share. The same command continues after an interruption.
set -euo pipefail
exec torchrun --nnodes 2 --nproc-per-node 8 --node-rank "${NODE:?number of this machine, from 0}" \
  --master-addr "${HEAD:?address of machine 0}" --master-port "${PORT:-29500}" \
  -m vactk train --resume "$@"
