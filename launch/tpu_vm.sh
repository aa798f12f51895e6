#!/usr/bin/env bash
# Trains on all workers of a Cloud TPU slice (TPU VMs), or runs another verb there: the same command on each, started
# again while it is preempted.
#
#   launch/tpu_vm.sh --name SLICE --zone ZONE [--project P] [--dir DIR] [--dry_run] -- [VERB] OPTIONS
#   launch/tpu_vm.sh --name SLICE --zone ZONE -- evaluate --workdir RUN                # the workers share the videos
#   launch/tpu_vm.sh --name SLICE --zone ZONE -- prepare folder --videos DIR --out DATA ...   # each worker a shard, then
#   launch/tpu_vm.sh --name SLICE --zone ZONE -- prepare merge DATA/test
#
# Stage 1 on v5e-16 (16 GiB a chip: the weights are split) and on v5p-128 (95 GiB: every chip holds them):
#   launch/tpu_vm.sh --name my-v5e-16 --zone us-west4-a -- --config configs/stage1.py:mad --workdir /shared/runs/mad \
#       --config.mesh.data=1 --config.mesh.fsdp=16 --config.data.dir=/data/mad --config.base.llm=/data/vicuna \
#       --config.base.encoder=/data/clip --config.base.projector=/data/mm_projector.bin
#   launch/tpu_vm.sh --name my-v5p-128 --zone us-east5-a -- --config configs/stage1.py:mad ... --config.mesh.data=64
#
# VERB is train (default), evaluate, prepare, export, convert or ground; these but the first two, and prepare's merge,
# check and report, run on worker 0 alone. Work folder, data and weights lie on a disk of all workers (Filestore, or a
# bucket mounted with gcsfuse).
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
    *) echo "error: unknown option $1; options of the verb come after --; see --help" >&2; exit 2 ;;
  esac
done
if [[ -z $name || -z $zone || ${#arguments[@]} -eq 0 ]]; then
  echo "error: --name, --zone and the options of the verb behind -- are needed; see --help" >&2
  exit 2
fi
verb=train
if [[ ${arguments[0]} != -* ]]; then
  verb=${arguments[0]} arguments=("${arguments[@]:1}")
fi
case "$verb" in
  train | evaluate | prepare | export | convert | ground) ;;
  *) echo "error: no verb $verb; expected train, evaluate, prepare, export, convert or ground; see --help" >&2; exit 2 ;;
esac

# A worker that does not join the others uses its own four chips.
alone="TPU_PROCESS_BOUNDS=1,1,1 TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1 TPU_VISIBLE_CHIPS=0,1,2,3"
metadata="curl -sfH Metadata-Flavor:Google http://metadata.google.internal/computeMetadata/v1/instance/attributes"
workers=all own=REVISION_JAX_CLUSTER=tpu_vm shard=""
if [[ $verb == prepare && ! ${arguments[0]} =~ ^(merge|check|report)$ ]]; then
  own=$alone
  shard=" --shard \$($metadata/agent-worker-number)/\$($metadata/worker-network-endpoints | tr , '\n' | grep -c .)"
elif [[ $verb != train && $verb != evaluate ]]; then
  own=$alone workers=0
fi
remote="cd $folder && $own JAX_COMPILATION_CACHE_DIR=\${JAX_COMPILATION_CACHE_DIR:-~/.jax_cache}"
remote+=" python3 -m revision_jax.$verb$(printf ' %q' "${arguments[@]}")$shard"
command=(gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" "--worker=$workers" --command "$remote")
if [[ -n $project ]]; then command+=(--project "$project"); fi
printf '+'; printf ' %q' "${command[@]}"; echo
if [[ -n $dry_run ]]; then exit 0; fi

for ((start = 0; start <= restarts; start++)); do
  code=0
  "${command[@]}" || code=$?
  # 143: SIGTERM before a training's first step, or in an evaluation or shard, which keep what they have done.
  if ((code == 143)) && [[ $verb == train || $verb == evaluate || $verb == prepare ]]; then code=75; fi
  if ((code != 75)); then exit "$code"; fi
  echo "stopped and saved; starts again ($((start + 1)) of $restarts)"
done
exit 75
