#!/usr/bin/env bash
# Runs the suite where most people are: with the oldest libraries that setup.py allows, and on a new Python.
#
#   tests/environments.sh [--root DIR] [oldest] [newest] [pytorch] [-- PYTEST ARGUMENTS]
#   tests/environments.sh oldest -- tests/metrics tests/models -n 0
#
#   oldest   this machine's python3, the lowest version of each library that setup.py names (uv resolves them)
#   newest   Debian 13 in a folder (debootstrap; needs root): its Python 3.13, the newest libraries, no PyTorch
#   pytorch  the same with PyTorch and PEFT, which brings a large build once
#
# Without a name: oldest and newest. Environments lie in DIR (default ~/.cache/revision_jax/environments), are made once
# and used again. Each run also builds and tries the wheel, where no arguments for pytest are given.
set -euo pipefail

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }

root=${XDG_CACHE_HOME:-$HOME/.cache}/revision_jax/environments names=() arguments=()
while (($#)); do
  case "$1" in
    --root) root=$2; shift 2 ;;
    oldest | newest | pytorch) names+=("$1"); shift ;;
    -h | --help) usage; exit 0 ;;
    --) shift; arguments=("$@"); break ;;
    *) echo "error: no environment $1; expected oldest, newest or pytorch; see --help" >&2; exit 2 ;;
  esac
done
((${#names[@]})) || names=(oldest newest)
if [[ " ${names[*]} " =~ " "(newest|pytorch)" " && $EUID != 0 ]]; then
  echo "error: newest and pytorch need root, for debootstrap and chroot; expected oldest alone otherwise" >&2
  exit 2
fi
cd "$(dirname "$0")/.."
mkdir -p "$root"
root=$(realpath "$root")

LIBRARIES='import importlib.metadata as m, sys
names = "jax jaxlib flax numpy scipy av transformers tokenizers orbax-checkpoint grain h5py lmdb rich torch".split()
found = {d.metadata["Name"].lower(): d.version for d in m.distributions()}
print("Python", sys.version.split()[0], *(f"{n} {found[n]}" for n in names if n in found), sep=", ")'

# What a shell in the environment does: say the versions, run the suite, try the wheel.
suite() {
  python -c "$LIBRARIES"
  if ((${#arguments[@]})); then
    python -m pytest "${arguments[@]}"
  else
    python -m pytest
    python -m pytest -m wheel -n 0 tests/test_wheel.py
  fi
}

oldest() {
  local folder=$root/oldest
  [[ -d $folder ]] || python3 -m venv "$folder"
  "$folder/bin/pip" install -q uv
  "$folder/bin/uv" pip install -q --python "$folder/bin/python" --resolution lowest-direct \
    --constraint .ci/constraints.txt -e ".[test]" pip
  (
    PATH=$folder/bin:$PATH PYTHONPATH=$PWD
    export PATH PYTHONPATH
    suite
  )
}

newest() { # extra of setup.py
  local folder=$root/newest
  [[ -e $folder/usr/bin/python3 ]] \
    || debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates,git trixie "$folder"
  mkdir -p "$folder/src"
  git ls-files -z --cached --others --exclude-standard | tar --null -T - -c | tar -x -C "$folder/src" --recursive-unlink
  for file in /etc/hosts /etc/resolv.conf /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
    if [[ -e $file ]]; then cp -L "$file" "$folder$file"; fi
  done
  (
    trap 'umount --lazy "$folder/proc" "$folder/dev"' EXIT
    mount --bind /proc "$folder/proc"
    mount --bind /dev "$folder/dev"
    # shellcheck disable=SC2016 # of the shell inside
    chroot "$folder" /usr/bin/env -i HOME=/root LANG=C.UTF-8 LIBRARIES="$LIBRARIES" EXTRA="$1" bash -euc '
      cd /src
      export PATH=/venv/bin:/usr/bin:/bin:/usr/sbin:/sbin  # also where python3 looks for itself
      [ -d /venv ] || python3 -m venv /venv
      pip install -q -e ".[$EXTRA]"
      '"$(declare -f suite)"'
      arguments=("$@")
      suite' suite "${arguments[@]}"
  )
}

for name in "${names[@]}"; do
  echo "== $name"
  case "$name" in
    oldest) oldest ;;
    newest) newest test-without-pytorch ;;
    pytorch) newest test ;;
  esac
done
