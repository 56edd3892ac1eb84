#!/usr/bin/env bash
# Lint, formatting and types: the same for a person and for CI.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
setup dev
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
