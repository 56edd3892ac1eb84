#!/usr/bin/env bash
# Make .venv beside this folder and install petrun into it, with the extras named as the first argument ("metrics", "dev"). A second
# argument is a version of MindSpore: it gets a folder of its own, .venv-mindspore-VERSION. Sets `venv` to the folder.
# Sourced by the other scripts; does nothing when the same extras are installed already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  for candidate in "${PYTHON:-}" python3.11 python3.12 python3.10 python3 python; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "petrun needs Python 3.10, 3.11 or 3.12; set PYTHON to one" >&2
  return 1
}

setup() {
  local extras="$1" mindspore="${2:-}"
  local python
  venv=".venv${mindspore:+-mindspore-$mindspore}"
  if [ ! -x "$venv/bin/python" ]; then
    python=$(find_python)
    echo "making $venv with $("$python" --version)"
    "$python" -m venv "$venv"
  fi
  local stamp
  stamp="$venv/installed-$extras-$(cksum < pyproject.toml | tr -d ' ')"
  if [ ! -e "$stamp" ]; then
    echo "installing petrun[$extras] (MindSpore is about 800 MB: the first time takes some minutes)"
    "$venv/bin/python" -m pip install --quiet --editable ".[$extras]" ${mindspore:+"mindspore==$mindspore"}
    touch "$stamp"
  fi
}
