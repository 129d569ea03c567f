#!/usr/bin/env bash
# From nothing to a trained agent and its report, on a laptop, without a key:
#   bash launch/quickstart.sh [--dry_run] [--config.field=value ...]
# Uses the active virtual environment, else makes one; PYTHON picks its Python.
set -euo pipefail
# shellcheck source=launch/_environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
# shellcheck source=launch/_commands.sh
. launch/_commands.sh
read_arguments 0 "$@"
install ""
become "$python" -m userrl_jax.train --config=configs/quickstart.py \
  "${arguments[@]}"
