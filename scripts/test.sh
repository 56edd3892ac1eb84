#!/usr/bin/env bash
# Set up .venv and run the tests. --all runs the full matrices as well; other arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
setup dev
selection=(-m "not all_only")
if [ "${1:-}" = "--all" ]; then
  selection=()
  shift
fi
export GLOG_v="${GLOG_v:-3}"
exec .venv/bin/python -m pytest ${selection[@]+"${selection[@]}"} "$@"
