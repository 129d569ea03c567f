#!/usr/bin/env bash
# Trains on the hosts of a SLURM job, one process a host:
#   sbatch --nodes=2 --gpus-per-node=8 launch/slurm.sh RECIPE.py \
#     [--config.field=value ...]
#   bash launch/slurm.sh --dry_run RECIPE.py ...   # prints what the job would do
# Submit it from the checkout, on a disk that all hosts share, as out_dir must be.
# A job whose time is up keeps a checkpoint, is queued again and goes on; so is
# one that lost a host, or had one killed for memory, up to MAX_RESTARTS (20).
# Variables: that, and ENTRY, ACCELERATOR and PYTHON, as of single_host.sh.
#SBATCH --job-name=userrl_jax
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@300
set -euo pipefail
# SLURM runs a copy of this file that lies elsewhere.
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}"
# shellcheck source=launch/_environment.sh
. launch/_environment.sh
# shellcheck source=launch/_commands.sh
. launch/_commands.sh
read_arguments 1 "$@"

where="$(accelerator)"
if [ "$where" = none ]; then install ""; else install "[$where]"; fi
# Under SLURM JAX takes one GPU a process unless it is told which.
gpus="${SLURM_GPUS_ON_NODE:-0}" devices=()
if [ "$gpus" -gt 0 ]; then
  devices+=(JAX_LOCAL_DEVICE_IDS="$(seq -s, 0 "$((gpus - 1))")")
  devices+=(XLA_PYTHON_CLIENT_MEM_FRACTION=0.92)
fi
code=0
run srun --ntasks-per-node=1 --kill-on-bad-exit=1 env "${devices[@]}" \
  "$python" -m "userrl_jax.${ENTRY:-train}" --config="${arguments[0]}" \
  "${arguments[@]:1}" "$hosts_flag" || code=$?
[ -z "$dry_run" ] || echo "# and where that ends with 75, 137 or 143:"
# 143 is that of SIGTERM: train has kept what it needs to go on. 75 is that of
# hosts that lost another, 137 of one killed for memory. What else fails would
# fail again.
restarts="${SLURM_RESTART_COUNT:-0}"
if [ -n "$dry_run" ] || [[ "$code" =~ ^(75|137|143)$ ]]; then
  if [ "$restarts" -lt "${MAX_RESTARTS:-20}" ]; then
    run scontrol requeue "${SLURM_JOB_ID:-JOB}"
  else
    echo "error: not queued again after $restarts restarts (MAX_RESTARTS)" >&2
  fi
fi
exit "$code"
