#!/usr/bin/env bash
# Set up .venv and run the tests, two files at a time. --all runs the full matrices as well; other arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
setup dev
selection=(-m "not all_only")
if [ "${1:-}" = "--all" ]; then
  selection=()
  shift
fi
export GLOG_v="${GLOG_v:-3}"
# MindSpore's own threads would get in each other's way.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Where this pytest is killed, its workers go on, send themselves a SIGINT after 5 seconds (execnet) and end after 15 at the latest: what
# a test that was running then says of an interruption means nothing.
exec .venv/bin/python -m pytest -n "${PETRUN_TEST_WORKERS:-2}" --dist loadfile ${selection[@]+"${selection[@]}"} "$@"
