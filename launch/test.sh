#!/usr/bin/env bash
# Runs the tests: bash launch/test.sh [--dry_run] [options of pytest, files]
# Uses the active virtual environment, else makes one; PYTHON picks its Python.
# USERRL_SHARED=folder adds the tests that need shared facts and released files.
set -euo pipefail
# shellcheck source=launch/_environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
# shellcheck source=launch/_commands.sh
. launch/_commands.sh
read_arguments 0 "$@"
install "[test]"
# One more than there are cores, for tests that wait for processes of their own.
cores="$(getconf _NPROCESSORS_ONLN)"
workers="$((cores < 4 ? cores + 1 : 4))"
# The tests of a file share a process, with its fixtures and compiled code; the
# order in which files begin is conftest's.
become "$python" -m pytest -n "$workers" --dist=loadfile \
  --no-loadscope-reorder "${arguments[@]}"
