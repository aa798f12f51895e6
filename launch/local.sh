#!/usr/bin/env bash
# Everything on this machine, on the embedded world: all stages, the search at every depth, retrieval, a report.
set -euo pipefail

usage() {
  cat <<'TEXT'
bash launch/local.sh [--seed N] [--root DIR] [--only STAGE,...] [--dry_run]

  --seed N      of data order, LoRA and adapters (default 0)
  --root DIR    work folders go here (default runs/local/seedN)
  --only LIST   some of: align,dense,sparse,long,unified,retrieval (default: all, in this order)
  --dry_run     print the commands only

Every training ends with its evaluation. The same command again resumes what was stopped. Results: metrics.json and
report.html in DIR/long/eval (the search at all depths), DIR/unified/eval (variant U) and DIR/retrieval/eval. Several
seeds at a glance:
  python -m revision_jax.benchmarks.seeds runs/local/seed*
TEXT
}

seed=0 root="" only=align,dense,sparse,long,unified,retrieval dry_run=""
while (($#)); do
  case "$1" in
    --seed) seed=$2; shift 2 ;;
    --root) root=$2; shift 2 ;;
    --only) only=$2; shift 2 ;;
    --dry_run) dry_run=1; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "error: unknown option $1; see --help" >&2; exit 2 ;;
  esac
done
for name in ${only//,/ }; do
  case "$name" in
    align | dense | sparse | long | unified | retrieval) ;;
    *) echo "error: --only names $name; see --help" >&2; exit 2 ;;
  esac
done
root=${root:-runs/local/seed$seed}
cd "$(dirname "$0")/.."
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.jax_cache}  # searches and seeds share programs

say_and_run() {
  echo "+ $*"
  [[ -n $dry_run ]] || "$@"
}
wanted() { [[ ",$only," == *",$1,"* ]]; }
train() { # work folder, config, further options
  local folder=$root/$1 config=$2
  shift 2
  say_and_run python -m revision_jax.train --config "configs/$config" --workdir "$folder" --config.seed="$seed" "$@"
}
from=(--config.init.dense="$root/dense" --config.init.sparse="$root/sparse")

if wanted align; then train align align.py; fi
if wanted dense; then train dense stage1.py; fi
if wanted sparse; then train sparse stage1_sparse.py "${from[0]}"; fi
if wanted long; then train long stage2.py "${from[@]}"; fi
if wanted unified; then train unified stage2.py:unified "${from[@]}"; fi
if wanted retrieval; then train retrieval stage2.py:retrieval "${from[@]}"; fi
