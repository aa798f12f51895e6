#!/usr/bin/env bash
# Trains on the GPUs of a SLURM job: one process a node, which sees all GPUs of it.
#
#   sbatch launch/slurm_gpu.sh --config configs/stage1.py:mad --workdir /shared/runs/mad ...
#   launch/slurm_gpu.sh --dry_run --config configs/stage1.py:mad --workdir RUN      # prints what would run
#
# Stage 1 on 8 x H100 (one node; sbatch's own options go in front of the script):
#   sbatch --nodes=1 --gpus-per-node=8 launch/slurm_gpu.sh --config configs/stage1.py:mad --workdir RUN \
#       --config.data.dir=DIR --config.base.llm=DIR --config.base.encoder=DIR --config.base.projector=mm_projector.bin
#
# The work folder, data and weights lie on a disk that all nodes share. SIGTERM comes 5 minutes before the time limit:
# the run saves, leaves with code 75, and the job is put into the queue again, where the same command goes on.
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
if ((${#arguments[@]} == 0)); then
  echo "error: no options of revision_jax.train given; see --help" >&2
  exit 2
fi

# Compiled programs are shared by all nodes and by the next start.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-${SLURM_SUBMIT_DIR:-$PWD}/.jax_cache}
command=(srun --kill-on-bad-exit=1 python -m revision_jax.train "${arguments[@]}")
echo "+ ${command[*]}"
if [[ -n $dry_run ]]; then exit 0; fi

code=0
"${command[@]}" || code=$?
if ((code == 75)); then
  echo "stopped and saved; back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
exit "$code"
