#!/usr/bin/env bash
# One run on a slice of Cloud TPU VMs: makes the slice, installs this checkout on every host, and
# starts the same command on all of them. jax finds the hosts (--multihost), process 0 writes.
#
#   NAME=dit ZONE=us-west4-a TYPE=v5litepod-256 VERSION=v2-alpha-tpuv5-lite \
#     experiments/launch/tpu_vm.sh gs://mine/runs/dit \
#     --config=experiments/configs/imagenet64_dit_xl2.py
#
# The workdir is in a bucket that the account of the VMs may read and write (Storage Object User), or
# on a disk that every host sees; so is data.path. `python -m experiments.plan --topology=v5e:16x16` says beforehand whether it fits.
# The same command again goes on after a preemption. Images of TPU VMs have an older Python than
# this project's: 3.11 is installed from the deadsnakes archive where a host has none, unless PYTHON
# names one that is there. Delete the slice when done:
#
#   gcloud compute tpus tpu-vm delete "$NAME" --zone="$ZONE"
#
# The processes meet at a port that jax chooses on the first of them and opens on all its addresses
# without a password: whoever reaches it can end the run. Let only the VMs of the run reach it.
#
# Commands as in Google Cloud's "Run JAX code on TPU slices". Not run by this project's tests.
set -euo pipefail
: "${NAME:?name of the slice}" "${ZONE:?zone}" "${TYPE:?such as v5litepod-256}"
: "${VERSION:?runtime of that type, such as v2-alpha-tpuv5-lite}"
workdir=${1:?usage: tpu_vm.sh WORKDIR --config=… [--config.a.b=…]}
shift
root=$(cd "$(dirname "$0")/../.." && pwd)

gcloud compute tpus tpu-vm describe "$NAME" --zone="$ZONE" >/dev/null 2>&1 ||
  gcloud compute tpus tpu-vm create "$NAME" --zone="$ZONE" --accelerator-type="$TYPE" \
    --version="$VERSION" ${SPOT:+--spot}

archive=$(mktemp -d)/langevin_jax.tar.gz
git -C "$root" archive --format=tar.gz --prefix=langevin_jax/ -o "$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$NAME:" --zone="$ZONE" --worker=all
command=$(printf '%q ' ../langevin_jax_python/bin/python -m experiments.train --multihost "--workdir=$workdir" "$@")
gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="
  set -e
  python=$(printf '%q' "${PYTHON:-python3.11}")
  if ! \$python -m ensurepip --version >/dev/null 2>&1; then
    [ -z $(printf '%q' "${PYTHON:-}") ] || { echo \"error: PYTHON=\$python is not there, or cannot make a venv\" >&2; exit 2; }
    sudo add-apt-repository -y ppa:deadsnakes/ppa >/dev/null
    # At the first start the image's own upgrades hold the lock.
    sudo apt-get -qq -o DPkg::Lock::Timeout=600 update
    sudo apt-get -qq -o DPkg::Lock::Timeout=600 install -y python3.11 python3.11-venv >/dev/null
  fi
  \$python -c 'import sys; sys.exit(sys.version_info < (3, 11) and \"error: PYTHON must be 3.11 or newer\")'
  tar xzf langevin_jax.tar.gz
  [ -x langevin_jax_python/bin/python ] || \$python -m venv langevin_jax_python
  cd langevin_jax
  ../langevin_jax_python/bin/python -m pip install --quiet -e '.[experiments,buckets,tpu]'
  $command"
