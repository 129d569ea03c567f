#!/usr/bin/env bash
# From nothing to a trained agent and its report, on a laptop, without a key:
#   bash launch/quickstart.sh [--config.field=value ...]
# Uses the active virtual environment, else makes one; PYTHON picks its Python.
set -euo pipefail
# shellcheck source=launch/_environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
prepare ""
exec "$python" -m userrl_jax.train --config=configs/quickstart.py "$@"
