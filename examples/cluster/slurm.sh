#!/usr/bin/env bash
# Train on two machines of 8 GPUs under Slurm, in jobs of a day that continue one another:
#   sbatch examples/cluster/slurm.sh --dataset k400 --data-root /data --output /shared/runs/k400
# Five minutes before the time limit the run gets a signal and saves its state, and the job requeues itself.
#SBATCH --job-name=vactk
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=vactk-%j.log
set -uo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240 # seconds that torchrun leaves for saving; older ones leave 30

again=""
trap 'again=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1

# --kill-on-bad-exit: otherwise, if one machine fails, the others wait for it
srun --kill-on-bad-exit=1 torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8 \
  --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$head:29500" \
  -m vactk train --resume "$@" &
step=$!
wait "$step"
ended=$?
if [ -n "$again" ]; then # the signal ended the first wait
  wait "$step"
  ended=$?
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$ended"
