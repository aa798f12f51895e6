#!/usr/bin/env bash
# Trains on TPU slices of GKE: fills in launch/gke_jobset.yaml and applies it.
#
#   launch/gke_jobset.sh --image IMAGE --topology v5e-16 [--slices N] [--name NAME] [--claim CLAIM] [--dry_run] -- \
#       OPTIONS OF revision_jax.train
#
# Stage 1 on v5e-16, on two slices of it, and on v5p-128 (/shared is the volume CLAIM, the same for all pods):
#   files="--config.data.dir=/shared/mad --config.base.llm=/shared/vicuna --config.base.encoder=/shared/clip \
#       --config.base.projector=/shared/mm_projector.bin --workdir /shared/runs/mad"
#   launch/gke_jobset.sh --image IMAGE --topology v5e-16 -- --config configs/stage1.py:mad $files \
#       --config.mesh.data=1 --config.mesh.fsdp=16
#   launch/gke_jobset.sh --image IMAGE --topology v5e-16 --slices 2 -- --config configs/stage1.py:mad $files \
#       --config.mesh.data=2 --config.mesh.fsdp=16
#   launch/gke_jobset.sh --image IMAGE --topology v5p-128 -- --config configs/stage1.py:mad $files --config.mesh.data=64
set -euo pipefail

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }

NAME=revision-jax IMAGE="" SLICES=1 CLAIM=shared CACHE=/shared/.jax_cache topology="" dry_run="" arguments=()
while (($#)); do
  case "$1" in
    --name) NAME=$2; shift 2 ;;
    --image) IMAGE=$2; shift 2 ;;
    --topology) topology=$2; shift 2 ;;
    --slices) SLICES=$2; shift 2 ;;
    --claim) CLAIM=$2; shift 2 ;;
    --dry_run) dry_run=1; shift ;;
    -h | --help) usage; exit 0 ;;
    --) shift; arguments=("$@"); break ;;
    *) echo "error: unknown option $1; options of the training come after --; see --help" >&2; exit 2 ;;
  esac
done
if [[ -z $IMAGE || ${#arguments[@]} -eq 0 ]]; then
  echo "error: --image, --topology and the options of revision_jax.train behind -- are needed; see --help" >&2
  exit 2
fi
case "$topology" in
  v5e-16) ACCELERATOR=tpu-v5-lite-podslice BOUNDS=4x4 HOSTS=4 ;;
  v5e-256) ACCELERATOR=tpu-v5-lite-podslice BOUNDS=16x16 HOSTS=64 ;;
  v6e-16) ACCELERATOR=tpu-v6e-slice BOUNDS=4x4 HOSTS=4 ;;
  v6e-256) ACCELERATOR=tpu-v6e-slice BOUNDS=16x16 HOSTS=64 ;;
  v5p-16) ACCELERATOR=tpu-v5p-slice BOUNDS=2x2x2 HOSTS=2 ;;
  v5p-128) ACCELERATOR=tpu-v5p-slice BOUNDS=4x4x4 HOSTS=16 ;;
  v5p-256) ACCELERATOR=tpu-v5p-slice BOUNDS=4x4x8 HOSTS=32 ;;
  *) echo "error: unknown topology '$topology'; expected v5e-16, v5e-256, v6e-16, v6e-256, v5p-16, v5p-128 or v5p-256" >&2
     exit 2 ;;
esac

# A JSON list is YAML too; json.dumps quotes whatever an argument may hold.
ARGUMENTS=$(python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "${arguments[@]}")
export NAME IMAGE SLICES CLAIM CACHE ACCELERATOR BOUNDS HOSTS ARGUMENTS
filled=$(python3 -c 'import os, string, sys; print(string.Template(sys.stdin.read()).substitute(os.environ))' \
  < <(grep -v '^#' "$(dirname "$0")/gke_jobset.yaml"))
if [[ -n $dry_run ]]; then
  echo "$filled"
else
  kubectl apply -f - <<< "$filled"
fi
