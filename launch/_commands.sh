# Sourced by launch scripts after _environment.sh: what they say and do alike.
# shellcheck shell=bash disable=SC2034
# For train where several hosts run one program; JAX finds the others by itself,
# on a TPU slice and under SLURM.
hosts_flag=--config.hosts.initialize=true

# Takes --dry_run off the arguments, which go to the array "arguments"; shows
# the head of the script where fewer than $1 are left.
read_arguments() {
  local least="$1"
  shift
  dry_run=""
  if [ "${1:-}" = --dry_run ]; then
    dry_run=1
    shift
  fi
  arguments=("$@")
  if [ "$#" -lt "$least" ]; then
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2
    exit 2
  fi
}

# Shows a command as it can be pasted; runs it, too, unless this is a dry run.
run() {
  quoted "$@"
  [ -n "$dry_run" ] || "$@"
}

# Prints words so that a shell reads them as they are.
quoted() {
  local word words=()
  for word in "$@"; do
    [[ "$word" =~ ^[A-Za-z0-9_./:=,+@%-]+$ ]] || word="${word@Q}"
    words+=("$word")
  done
  echo "${words[*]}"
}

# Says what programs can run on here: cuda, tpu or none.
accelerator() {
  local found=none
  if compgen -G '/dev/accel*' >/dev/null || [ -e /dev/vfio/0 ]; then
    found=tpu
  fi
  ! nvidia-smi -L >/dev/null 2>&1 || found=cuda
  echo "${ACCELERATOR:-$found}"
}

# Installs the package with the JAX of an accelerator, as `prepare` does.
install() {
  local extras="[$1]"
  [ "$1" != none ] || extras=""
  if [ -n "$dry_run" ]; then
    python=python
    run python -m pip install --editable ".$extras"
  else
    prepare "$extras"
  fi
}
