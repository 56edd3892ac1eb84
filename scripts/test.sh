#!/usr/bin/env bash
# Set up .venv and run the tests, two files at a time. --all runs the full matrices as well. --mindspore VERSION runs the packages that
# meet MindSpore most closely, in an environment of their own with that version. Other arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
selection=(-m "not all_only")
case "${1:-}" in
  --all)
    setup dev
    selection=()
    shift
    ;;
  --mindspore)
    setup dev "${2:?"--mindspore needs a version, such as 2.7.2"}"
    # Kernels, graphs, the step, families, every algorithm; then ranks, runs and their resume, the cache, generation, the rehearsal.
    selection+=(tests/kernels tests/graph tests/train tests/models tests/delta tests/evaluate/test_generate.py
      tests/parallel/test_compile_cache.py tests/parallel/test_data_parallel.py tests/commands/test_low_rank_runs.py
      tests/commands/test_compile_cache.py tests/training/test_pipeline.py tests/training/checkpointing tests/rehearsal)
    shift 2
    ;;
  *) setup dev ;;
esac
export GLOG_v="${GLOG_v:-3}"
# MindSpore's own threads would get in each other's way.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Where this pytest is killed, its workers go on, send themselves a SIGINT after 5 seconds (execnet) and end after 15 at the latest: what
# a test that was running then says of an interruption means nothing.
# In the order of the files: with the files of few tests last, as xdist has it, one worker is often alone with a long one.
exec "$venv/bin/python" -m pytest -n "${PETRUN_TEST_WORKERS:-2}" --dist loadfile --no-loadscope-reorder ${selection[@]+"${selection[@]}"} "$@"
