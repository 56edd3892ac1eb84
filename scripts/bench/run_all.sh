#!/usr/bin/env bash
# Step time and memory of petrun beside peft + PyTorch, as one Markdown table: ratios below 1 are petrun's.
#
#   bash scripts/bench/run_all.sh [--only NAME] [--peer-python PATH] [--sst2 FOLDER] [--rounds N]
#
# Every case alternates petrun and the peer in one run. --only: cases whose name contains NAME (see `case` below). --peer-python, or
# $PEER_PYTHON: the interpreter with torch, transformers and peft; default: that of .venv. --sst2, or $SST2: the folder with train.tsv and
# dev.tsv; without it the epoch is left out. What the programs print besides goes to standard error.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=.venv/bin/python
only="" rounds=6 sst2=${SST2:-}
while [ $# -gt 0 ]; do
  case $1 in
    --only) only=$2 ;;
    --peer-python) export PEER_PYTHON=$2 ;;
    --sst2) sst2=$2 ;;
    --rounds) rounds=$2 ;;
    *) echo "run_all.sh: $1 is not an option: --only NAME, --peer-python PATH, --sst2 FOLDER, --rounds N" >&2; exit 2 ;;
  esac
  shift 2
done
export PYTHONPATH=$PWD PEER_PYTHON=${PEER_PYTHON:-$python}

# one_case NAME PROGRAM ARGUMENTS...: run it if its name was asked for, and print the rows of its output.
one_case() {
  local name=$1 program=$2
  shift 2
  [[ $name == *"$only"* ]] || return 0
  "$python" "scripts/bench/$program" "$@" --row "$name" | tee >(grep -v '^|' >&2) | grep '^|'
}

echo "$(nproc) cores"
echo "| case | petrun | peer | ratio | rounds | memory ratio |"
echo "|---|---|---|---|---|---|"
one_case minilm-lora step.py --rounds "$rounds"
one_case minilm-lora-no-dropout step.py --rounds "$rounds" --no-dropout
one_case qwen2-lora-qv step.py --rounds "$rounds" --model qwen2
one_case qwen2-lora-all-linear step.py --rounds "$rounds" --model qwen2 --targets all-linear
one_case minilm-full step.py --rounds "$rounds" --algo full
one_case minilm-ia3-memory step.py --methods-memory
if [ -n "$sst2" ]; then
  one_case sst2-epoch sst2_epoch.py --sst2 "$sst2"
elif [[ sst2-epoch == *"$only"* ]]; then
  echo "sst2-epoch is left out: give --sst2 FOLDER" >&2
fi
