#!/usr/bin/env bash
# Runs the tests: bash launch/test.sh [options of pytest, files]
# Uses the active virtual environment, else makes one; PYTHON picks its Python.
# USERRL_SHARED=folder adds the tests that need shared facts and released files.
set -euo pipefail
# shellcheck source=launch/_environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
prepare "[test]"
# One more than there are cores, for tests that wait for processes of their own.
workers="$("$python" -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')"
# The tests of a file share a process, with its fixtures and compiled code.
exec "$python" -m pytest -n "$workers" --dist=loadfile "$@"
