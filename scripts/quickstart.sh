#!/usr/bin/env bash
# From a fresh clone to a fine-tuned model: set up .venv, then run the main job, which needs no files of yours.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
setup metrics
exec .venv/bin/petrun train --algo lora --rank 8 "$@"
