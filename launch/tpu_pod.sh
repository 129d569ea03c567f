#!/usr/bin/env bash
# Trains on all hosts of a TPU slice, one process a host:
#   bash launch/tpu_pod.sh [--dry_run] NAME ZONE PROJECT RECIPE.py \
#     [--config.field=value ...]
# Copies this checkout to every host, installs it there and starts train; the
# same command again goes on where the run was. Folders are those of the hosts:
# out_dir, weights and tasks must lie on a disk that all of them share. Keys come
# from ~/.userrl_jax.env of each host, if it is there. The connection must last:
# start it in tmux. Variables: ENTRY, as of single_host.sh; WORKER=0 for one host
# alone, on its CPU; PYTHON, that of the hosts.
set -euo pipefail
# shellcheck source=launch/_environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
# shellcheck source=launch/_commands.sh
. launch/_commands.sh
read_arguments 4 "$@"

name="${arguments[0]}" recipe="${arguments[3]}"
pod=(--zone="${arguments[1]}" --project="${arguments[2]}")
pod+=(--worker="${WORKER:-all}")
train=("${arguments[@]:4}")
where=tpu
if [ "${WORKER:-all}" = all ]; then train+=("$hosts_flag"); else where=none; fi

folder=.
[ -n "$dry_run" ] || folder="$(mktemp -d)"
archive=userrl_jax.tar.gz
# What git knows or does not ignore, uncommitted changes included.
run bash -c "git ls-files -z --cached --others --exclude-standard | \
tar --null --files-from=- --ignore-failed-read -czf $folder/$archive"
run gcloud compute tpus tpu-vm scp "$folder/$archive" "$name:" "${pod[@]}"

remote="mkdir -p userrl_jax && tar -xzf $archive -C userrl_jax"
remote+=" && cd userrl_jax && if [ -f ~/.userrl_jax.env ]; then"
remote+=" set -a; . ~/.userrl_jax.env; set +a; fi"
remote+=" && ENTRY=${ENTRY:-train} ACCELERATOR=$where"
[ -z "${PYTHON:-}" ] || remote+=" PYTHON=$(quoted "$PYTHON")"
remote+=" bash launch/single_host.sh $(quoted "$recipe" "${train[@]}")"
run gcloud compute tpus tpu-vm ssh "$name" "${pod[@]}" --command="$remote"
[ -n "$dry_run" ] || exit 0
echo "# and there:"
ENTRY="${ENTRY:-train}" ACCELERATOR="$where" \
  bash launch/single_host.sh --dry_run "$recipe" "${train[@]}"
