#!/usr/bin/env bash
# The paper's runs: demonstrates, trains and evaluates Qwen3-4B or Qwen3-8B;
# ARM is one of configs/ablations/paper.py, on two gyms.
#   bash launch/paper.sh [--dry_run] 4b|8b|4b:ARM MODEL TASKS TAU_BENCH \
#     --config.user.base_url=http://HOST:8000/v1 [--config.field=value ...]
# MODEL is the folder of the published weights; TASKS has UserRL's task files of
# all gyms, TAU_BENCH a checkout of tau-bench; the address serves user.model,
# Qwen3-32B. OPENAI_API_KEY is for the GPT-4o that demonstrates and is the user
# of the evaluation, SERPER_API_KEY for the pages of Search; the server gets no
# key but that of --config.user.api_key_env=VARIABLE. It runs here, or on
# a TPU slice where POD="NAME ZONE PROJECT"; folders are then that slice's. The
# same command goes on where it was, and repeats nothing that is finished.
set -euo pipefail
# shellcheck source=launch/_environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
# shellcheck source=launch/_commands.sh
. launch/_commands.sh
read_arguments 4 "$@"

size="${arguments[0]}" model="${arguments[1]}"
case "$size" in
  4b | 8b) recipe="configs/paper_$size.py" shown="runs/paper_${size}_shown" ;;
  4b:?*)  # whose arms share demonstrations: made by the recipe, not by an arm
    recipe="configs/ablations/paper.py:${size#4b:}"
    shown=runs/paper_4b_two_gyms_shown size="${size/:/_}" ;;
  *) echo "error: the first argument must be 4b, 8b or 4b:ARM, got $size" >&2
    exit 2 ;;
esac
launch=(bash launch/single_host.sh)
if [ -n "${POD:-}" ]; then
  read -r -a pod <<<"$POD"
  launch=(bash launch/tpu_pod.sh ${dry_run:+--dry_run} "${pod[@]}")
elif [ -n "$dry_run" ]; then
  launch+=(--dry_run)
fi
same=(--config.tokenizer.folder="$model")
same+=(--config.gyms.tasks="${arguments[2]}")
same+=(--config.gyms.tau.checkout="${arguments[3]}")
openai=(--config.user.model=gpt-4o --config.user.base_url=)
openai+=(--config.user.api_key_env=OPENAI_API_KEY)

# No device is needed for them; --config.cold_start.source=FILE brings others.
if [[ "${arguments[*]}" != *--config.cold_start.source=* ]] &&
  [[ "$size" != *no_cold_start ]]; then
  WORKER=0 ACCELERATOR=none ENTRY=demonstrate "${launch[@]}" "${recipe%:*}" \
    "${same[@]}" --config.out_dir="$shown" "${arguments[@]:4}" \
    --config.evaluation.agent=endpoint --config.agent.model=gpt-4o \
    --config.evaluation.temperature=1 "${openai[@]}"
fi
ENTRY=train "${launch[@]}" "$recipe" "${same[@]}" --config.model.folder="$model" \
  "${arguments[@]:4}"
ENTRY=evaluate "${launch[@]}" "$recipe" "${same[@]}" \
  --config.init_from="runs/paper_$size/checkpoints/grpo" \
  --config.out_dir="runs/paper_${size}_gpt4o" "${arguments[@]:4}" "${openai[@]}"
