#!/usr/bin/env bash
# One run on TPU slices of a GKE cluster, submitted by xpk (pip install xpk), which makes a JobSet of
# it; jax finds the pods (--multihost), process 0 writes. A preempted workload is started again and
# goes on from its newest checkpoint.
#
#   CLUSTER=pods PROJECT=me ZONE=us-west4-a TPU=v5litepod-256 IMAGE=python:3.11 \
#     experiments/launch/gke_xpk.sh dit gs://mine/runs/dit \
#     --config=experiments/configs/imagenet64_dit_xl2.py
#
# IMAGE is a base image with Python 3.11 or newer; xpk lays the checkout over it. workdir and
# data.path are in a bucket that the pods' service account may read and write (Storage Object User),
# or on volumes that every pod mounts (`xpk storage attach`). Watch and delete:
#
#   xpk workload list --cluster="$CLUSTER"; xpk workload delete --cluster="$CLUSTER" --workload=dit
#
# The processes meet at a port that jax chooses on the first of them and opens on all its addresses
# without a password: whoever reaches it can end the run. Let only the pods of the run reach it.
#
# Not run by this project's tests.
set -euo pipefail
: "${CLUSTER:?}" "${PROJECT:?}" "${ZONE:?}" "${TPU:?such as v5litepod-256}"
name=${1:?usage: gke_xpk.sh NAME WORKDIR --config=… [--config.a.b=…]}
workdir=${2:?gs://bucket/folder, or a volume that every pod mounts}
shift 2
root=$(cd "$(dirname "$0")/../.." && pwd)
command=$(printf '%q ' python3 -m experiments.train --multihost "--workdir=$workdir" "$@")
xpk workload create --cluster="$CLUSTER" --project="$PROJECT" --zone="$ZONE" \
  --workload="$name" --tpu-type="$TPU" --num-slices="${SLICES:-1}" \
  --base-docker-image="${IMAGE:-python:3.11}" --script-dir="$root" \
  --max-restarts="${RESTARTS:-100}" \
  --command="pip install --quiet -e '.[experiments,buckets,tpu]' && $command"
