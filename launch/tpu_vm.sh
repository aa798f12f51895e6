#!/usr/bin/env bash
# Trains on all workers of a Cloud TPU slice (TPU VMs): the same command on each, started again while it is preempted.
#
#   launch/tpu_vm.sh --name SLICE --zone ZONE [--project P] [--dir DIR] [--dry_run] -- OPTIONS OF revision_jax.train
#
# Stage 1 on v5e-16 (16 GiB a chip: the weights are split) and on v5p-128 (95 GiB: every chip holds them):
#   launch/tpu_vm.sh --name my-v5e-16 --zone us-west4-a -- --config configs/stage1.py:mad --workdir gs://BUCKET/mad \
#       --config.mesh.data=1 --config.mesh.fsdp=16 --config.data.dir=/data/mad --config.base.llm=/data/vicuna \
#       --config.base.encoder=/data/clip --config.base.projector=/data/mm_projector.bin
#   launch/tpu_vm.sh --name my-v5p-128 --zone us-east5-a -- --config configs/stage1.py:mad ... --config.mesh.data=64
#
# DIR (default $HOME/revision_jax) is the clone on every worker, with `pip install -e '.[tpu]'` done. Exit code 75 of a
# worker means stopped and saved: the command is started again, at most --restarts times (default 100).
set -euo pipefail

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }

name="" zone="" project="" folder="\$HOME/revision_jax" restarts=100 dry_run="" arguments=()
while (($#)); do
  case "$1" in
    --name) name=$2; shift 2 ;;
    --zone) zone=$2; shift 2 ;;
    --project) project=$2; shift 2 ;;
    --dir) folder=$2; shift 2 ;;
    --restarts) restarts=$2; shift 2 ;;
    --dry_run) dry_run=1; shift ;;
    -h | --help) usage; exit 0 ;;
    --) shift; arguments=("$@"); break ;;
    *) echo "error: unknown option $1; options of the training come after --; see --help" >&2; exit 2 ;;
  esac
done
if [[ -z $name || -z $zone || ${#arguments[@]} -eq 0 ]]; then
  echo "error: --name, --zone and the options of revision_jax.train behind -- are needed; see --help" >&2
  exit 2
fi

remote="cd $folder && REVISION_JAX_CLUSTER=tpu_vm JAX_COMPILATION_CACHE_DIR=\${JAX_COMPILATION_CACHE_DIR:-~/.jax_cache}"
remote+=" python3 -m revision_jax.train$(printf ' %q' "${arguments[@]}")"
command=(gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all --command "$remote")
if [[ -n $project ]]; then command+=(--project "$project"); fi
printf '+'; printf ' %q' "${command[@]}"; echo
if [[ -n $dry_run ]]; then exit 0; fi

for ((start = 0; start <= restarts; start++)); do
  code=0
  "${command[@]}" || code=$?
  if ((code != 75)); then exit "$code"; fi
  echo "stopped and saved; starts again ($((start + 1)) of $restarts)"
done
exit 75
