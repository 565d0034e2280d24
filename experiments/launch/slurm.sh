#!/usr/bin/env bash
# One run over several Slurm nodes, a process a node with all of its GPUs. jax reads the addresses
# from Slurm (--multihost), process 0 writes. Slurm sends SIGTERM two minutes before the time is up;
# all processes then save the same step and leave, and the job puts itself back into the queue.
#
#   sbatch --nodes=2 --gpus-per-node=8 experiments/launch/slurm.sh \
#     --config=experiments/configs/imagenet64_dit_xl2.py --workdir=/shared/runs/dit
#
# On clouds the workdir may be in a bucket, --workdir=gs://mine/runs/dit (pip install gcsfs).
#
# A sweep needs none of this: its groups are jobs of their own, one node each, submitted by
#
#   python -m experiments.sweep --config=… --sweep=… --workdir=/shared/runs/x --launcher=slurm \
#     --slurm_partition=gpu --slurm_gpus=1
#
# The processes meet at a port that jax chooses on the first of them and opens on all its addresses
# without a password: whoever reaches it can end the run. Let only the nodes of the run reach it.
#
# Not run by this project's tests.
#SBATCH --job-name=langevin
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
log=$(mktemp)
srun --kill-on-bad-exit=1 "${PYTHON:-python}" -m experiments.train --multihost "$@" | tee "$log"
# train says so where it was stopped before its last step.
if grep -q '^stopped at step' "$log"; then
  scontrol requeue "$SLURM_JOB_ID"
fi
