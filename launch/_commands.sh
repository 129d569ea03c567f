# Sourced by launch scripts after _environment.sh: what they say and do alike.
# shellcheck shell=bash disable=SC2034
# For train where several hosts run one program; JAX finds the others by itself,
# on a TPU slice and under SLURM.
hosts_flag=--config.hosts.coordinator=auto

# Takes --dry_run off the arguments, which go to the array "arguments"; shows
# the head of the script where fewer than $1 are left.
read_arguments() {
  dry_run="" arguments=("${@:2}")
  if [ "${2:-}" = --dry_run ]; then
    dry_run=1 arguments=("${@:3}")
  fi
  if [ "${#arguments[@]}" -lt "$1" ]; then
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2
    exit 2
  fi
}

# Show a command as it can be pasted and, unless this is a dry run, run it, or
# become it, as the last one must: signals then reach it and not this shell.
run() {
  quoted "$@"
  [ -n "$dry_run" ] || "$@"
}
become() {
  quoted "$@"
  [ -n "$dry_run" ] || exec "$@"
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
  ! compgen -G '/dev/accel*' >/dev/null || found=tpu
  [ ! -e /dev/vfio/0 ] || found=tpu
  ! nvidia-smi -L >/dev/null 2>&1 || found=cuda
  echo "${ACCELERATOR:-$found}"
}

# Installs the package with some extras, such as "[cuda]", as `prepare` does.
install() {
  if [ -n "$dry_run" ]; then
    python=python
    [ -n "${VIRTUAL_ENV:-}" ] || printf '%s -m venv %s   # unless it is there
source %s/bin/activate\n' "${PYTHON:-python3}" "$(venv_name)" "$(venv_name)"
    run python -m pip install --editable ".$1"
  else
    prepare "$1"
  fi
}
