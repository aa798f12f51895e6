#!/usr/bin/env bash
# Trains on TPU slices of GKE, or runs another verb there: fills in launch/gke_jobset.yaml and applies it.
#
#   launch/gke_jobset.sh --image IMAGE --topology v5e-16 [--slices N] [--name NAME] [--claim CLAIM] [--dry_run] -- \
#       [VERB] OPTIONS
#   launch/gke_jobset.sh ... -- evaluate --workdir /shared/runs/mad                  # the pods share the videos
#   launch/gke_jobset.sh ... -- prepare folder --videos DIR --out /shared/mine ...    # each pod a shard of one slice; then
#   kubectl exec, or any pod with the volume: python -m revision_jax.prepare merge /shared/mine/test
# VERB is train (default), evaluate or prepare of a data set; the others need one machine, no JobSet.
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

NAME=revision-jax IMAGE="" SLICES=1 CLAIM=shared topology="" dry_run="" arguments=()
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
    *) echo "error: unknown option $1; options of the verb come after --; see --help" >&2; exit 2 ;;
  esac
done
if [[ -z $IMAGE || ${#arguments[@]} -eq 0 ]]; then
  echo "error: --image, --topology and the options of the verb behind -- are needed; see --help" >&2
  exit 2
fi
VERB=train
if [[ ${arguments[0]} != -* ]]; then
  VERB=${arguments[0]} arguments=("${arguments[@]:1}")
fi
case "$VERB ${arguments[0]:-}" in
  "prepare merge" | "prepare check" | "prepare report")
    echo "error: $VERB ${arguments[0]} works on one machine: run it in any pod that has the volume; see --help" >&2; exit 2 ;;
  "train "* | "evaluate "* | "prepare "*) ;;
  *) echo "error: no verb $VERB for a JobSet; expected train, evaluate or prepare; see --help" >&2; exit 2 ;;
esac
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

COMMAND="[python, -m, revision_jax.$VERB]" environment=("JAX_COMPILATION_CACHE_DIR=/shared/.jax_cache")
if [[ $VERB == prepare ]]; then
  if ((SLICES != 1)); then
    echo "error: --slices is $SLICES; prepare shares its videos among the pods of one slice: give --slices 1" >&2
    exit 2
  fi
  # Code 1: the shard is there, but for the gaps that it lists. It must not end the other pods.
  # shellcheck disable=SC2016 # for the pod's shell
  COMMAND=$(python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' \
    bash -c 'code=0; python -m revision_jax.prepare "$@" || code=$?; exit $((code == 1 ? 0 : code))' prepare)
  arguments+=(--shard "\$(JOB_COMPLETION_INDEX)/$HOSTS") # the Job puts it into the environment
  # A pod that does not join the others uses its own four chips.
  environment+=("TPU_PROCESS_BOUNDS=1,1,1" "TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1")
fi
# A JSON list is YAML too; json.dumps quotes whatever an argument may hold.
ARGUMENTS=$(python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "${arguments[@]}")
ENVIRONMENT=$(python3 -c 'import json, sys
print(json.dumps([dict(zip(("name", "value"), text.split("=", 1))) for text in sys.argv[1:]]))' "${environment[@]}")
export COMMAND ENVIRONMENT NAME IMAGE SLICES CLAIM ACCELERATOR BOUNDS HOSTS ARGUMENTS
filled=$(python3 -c 'import os, string, sys; print(string.Template(sys.stdin.read()).substitute(os.environ))' \
  < <(grep -v '^#' "$(dirname "$0")/gke_jobset.yaml"))
if [[ -n $dry_run ]]; then
  echo "$filled"
else
  kubectl apply -f - <<< "$filled"
fi
