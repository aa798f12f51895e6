#!/usr/bin/env bash
# Trains on the GPUs of a SLURM job, or runs another verb there: one process a node, which sees all GPUs of it.
#
#   sbatch launch/slurm_gpu.sh [train] --config configs/stage1.py:mad --workdir /shared/runs/mad ...
#   sbatch --nodes=4 launch/slurm_gpu.sh evaluate --workdir /shared/runs/mad          # the nodes share the videos
#   sbatch --array=0-7 launch/slurm_gpu.sh prepare folder --videos DIR --out DATA ...  # each a shard of eight, then
#   sbatch launch/slurm_gpu.sh prepare merge DATA/test
#   sbatch launch/slurm_gpu.sh ablate --config configs/ablation.py:variants_mad --workdir /shared/studies ...
#   launch/slurm_gpu.sh --dry_run --config configs/stage1.py:mad --workdir RUN      # prints what would run
#
# Stage 1 on 8 x H100 (one node; sbatch's own options go in front of the script):
#   sbatch --nodes=1 --gpus-per-node=8 launch/slurm_gpu.sh --config configs/stage1.py:mad --workdir RUN \
#       --config.data.dir=DIR --config.base.llm=DIR --config.base.encoder=DIR --config.base.projector=mm_projector.bin
#
# `prepare DATASET` also shares its videos among the nodes of one job; ablate, export, convert and ground take one node.
# The work folder, data and weights lie on a disk that all nodes share. SIGTERM comes 5 minutes before the time limit:
# the run saves, leaves with code 75, and the job is put into the queue again, where the same command goes on. So do
# evaluate, prepare and ablate, which keep what they have done at any time.
#SBATCH --job-name=revision_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

usage() { sed -n '2,/^#SBATCH/{/^#SBATCH/d;s/^# \{0,1\}//;p}' "$0"; }

dry_run="" arguments=()
while (($#)); do
  case "$1" in
    --dry_run) dry_run=1; shift ;;
    -h | --help) usage; exit 0 ;;
    *) arguments+=("$1"); shift ;;
  esac
done
verb=train
if ((${#arguments[@]})) && [[ ${arguments[0]} != -* ]]; then
  verb=${arguments[0]} arguments=("${arguments[@]:1}")
fi
case "$verb" in
  train | evaluate | prepare | ablate | export | convert | ground) ;;
  *)
    echo "error: no verb $verb; expected train, evaluate, prepare, ablate, export, convert or ground; see --help" >&2
    exit 2
    ;;
esac
if ((${#arguments[@]} == 0)); then
  echo "error: no options of revision_jax.$verb given; see --help" >&2
  exit 2
fi

# Compiled programs are shared by all nodes and by the next start.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-${SLURM_SUBMIT_DIR:-$PWD}/.jax_cache}
program=(python -m "revision_jax.$verb" "${arguments[@]}") step=(srun --kill-on-bad-exit=1)
if [[ $verb == prepare && ! ${arguments[0]} =~ ^(merge|check|report)$ && " ${arguments[*]}" != *" --shard"* ]]; then
  step=(srun --kill-on-bad-exit=0) # code 1 of a shard: it is there, but for the gaps that it lists
  if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
    if ((${SLURM_ARRAY_TASK_MIN:-0} != 0 || ${SLURM_ARRAY_TASK_MAX:-0} + 1 != SLURM_ARRAY_TASK_COUNT)); then
      echo "error: the array has tasks $SLURM_ARRAY_TASK_MIN to $SLURM_ARRAY_TASK_MAX, $SLURM_ARRAY_TASK_COUNT of them;" \
        "expected --array=0-N without gaps, so that every shard is made" >&2
      exit 2
    fi
    step+=(--nodes=1 --ntasks=1)
    program+=(--shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT")
  else
    # shellcheck disable=SC2016 # each node's own number
    program=(bash -c 'exec "$@" --shard "$SLURM_PROCID/$SLURM_NTASKS"' shard "${program[@]}")
  fi
elif [[ $verb != train && $verb != evaluate ]]; then
  step+=(--nodes=1 --ntasks=1)
fi
command=("${step[@]}" "${program[@]}")
echo "+ ${command[*]}"
if [[ -n $dry_run ]]; then exit 0; fi

# SIGTERM may come to this shell too, or to it alone: it goes on to the steps, and what they return decides.
trap 'scancel --signal=TERM "$SLURM_JOB_ID" || true' TERM
"${command[@]}" &
step_pid=$! code=0
wait "$step_pid" || code=$?
while kill -0 "$step_pid" 2> /dev/null; do # the wait was interrupted by the trap
  code=0
  wait "$step_pid" || code=$?
done
if ((code == 137)); then
  echo "error: a process was killed (137), as the system does when a node's memory is full: give the job more (--mem), or" \
    "lower data.read_threads, data.prefetch and what a step holds (model.param_dtype, train.accumulate; search.window_block)" >&2
fi
# SIGTERM ends these at once, a training only before its first step; later it saves. The same command goes on.
if ((code == 143)) && [[ $verb =~ ^(train|evaluate|prepare|ablate)$ ]]; then code=75; fi
if ((code == 75)); then
  # scancel sends SIGTERM too; a job that a person cancelled must not come back. SLURM calls it COMPLETING while it still
  # runs, else RUNNING.
  if [[ $(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T 2> /dev/null || true) == COMPLETING ]]; then
    echo "stopped and saved; SLURM had ended the job (scancel, or its time limit): it does not go back into the queue"
    exit 0
  fi
  echo "stopped and saved; back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
exit "$code"
