#!/usr/bin/env bash
# The experiments: trains what is missing of one, then reports on it.
#   bash launch/ablations.sh [--dry_run] a|b|c|d|e [--config.field=value ...]
# (a) credits and scores, (b) cold start, (c) users, (d) late rewards, (e) turns
# against score: recipes, questions and plan are in configs/ablations/, reports
# in runs/ablations/*/report.html. All but b start from the cold starts of b,
# which is run first if need be, without the fields given here. Beside b, RL alone
# is run for longer. The same command goes on where it was. Variables:
# JOBS, runs side by side (2); SEEDS, such as 0,1 (five, for d and e two).
set -euo pipefail
# shellcheck source=launch/_environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
# shellcheck source=launch/_commands.sh
. launch/_commands.sh
read_arguments 1 "$@"

seeds=0,1,2,3,4
case "${arguments[0]}" in
  a) name=credits ;;
  b) name=cold_start ;;
  c) name=users ;;
  d) name=delayed seeds=0,1 ;;
  e) name=efficiency seeds=0,1 ;;
  *) echo "error: the experiment must be a, b, c, d or e, got ${arguments[0]}" >&2
    exit 2 ;;
esac
seeds=${SEEDS:-$seeds}
sweep() {
  words=("$python" launch/sweep.py --config="configs/ablations/$1.py")
  words+=(--out_dir="runs/ablations/${out:-$1}" --grid=seed="$2")
  words+=(--jobs="${JOBS:-2}" "${@:3}")
}
install ""
if [ "$name" = cold_start ]; then
  out=rl_only sweep cold_start "$seeds" --noreport \
    --config.stages='("base","cold_start","rl_only")' \
    --config.comparison.rl_only_iterations=120 "${arguments[@]:1}"
else # a report of b has all its seeds, and is not made anew for fewer
  sweep cold_start "$seeds" --noreport
fi
run "${words[@]}"
if [ "$name" = users ]; then # a row of the matrix: who is not trained on
  for seed in ${seeds//,/ }; do
    run "$python" -m userrl_jax.evaluate --config=configs/ablations/users.py \
      --config.seed="$seed" \
      --config.out_dir="runs/ablations/users_start/seed=$seed" \
      "${arguments[@]:1}"
  done
fi
sweep "$name" "$seeds" "${arguments[@]:1}"
become "${words[@]}"
