# Sourced by the scripts beside it: goes to the checkout's root and prepares a
# virtual environment; afterwards "$python" is its interpreter.
# shellcheck shell=bash

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root" || exit 1

# Uses the active virtual environment, else makes .venv here (.venv-3.12 when
# the variable PYTHON picks a Python 3.12), and installs the package into it.
# Argument: the extras to install, like "[test]".
prepare() {
  local extras="$1" venv="${VIRTUAL_ENV:-}"
  if [ -z "$venv" ]; then
    require_version "${PYTHON:-python3}"
    venv="$root/$(venv_name)"
    # Made again where a former attempt was cut off before it had a pip.
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || make_venv "$venv"
  fi
  python="$venv/bin/python"
  require_version "$python"
  # An editable install points to one checkout, so the stamp names it too.
  local stamp="$venv/userrl_jax.stamp" key
  key="$root $(version "$python") $(cat setup.cfg pyproject.toml | cksum)"
  case "$(cat "$stamp" 2>/dev/null)" in
    "$key"*"$extras") return ;;
  esac
  echo "Installing userrl_jax$extras into $venv ..." >&2
  "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip
  "$python" -m pip install --quiet --disable-pip-version-check \
    --editable ".$extras"
  echo "$key $extras" >"$stamp"
}

venv_name() {
  echo ".venv${PYTHON:+-$(version "$PYTHON")}"
}

make_venv() {
  "${PYTHON:-python3}" -m venv "$1" || {
    echo "error: ${PYTHON:-python3} must be able to make a virtual" \
      "environment; on Debian and Ubuntu, install python3-venv" >&2
    exit 1
  }
}

version() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'
}

require_version() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    local got="no such program"
    command -v "$1" >/dev/null && got="$("$1" -V 2>&1)"
    echo "error: Python must be 3.11 or newer, got $1 ($got);" \
      "choose another by PYTHON=python3.12" >&2
    exit 1
  }
}
