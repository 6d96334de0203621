#!/bin/sh
# Time and memory of the stages at three numbers of candidates: are they linear, and does memory stay?
#
#   benches/linear.sh target/release/craft OUT.csv [DIR]
#
# Draws pictures of 32 by 32 with the embedded model in one step, so that work for each candidate beside the
# network's weighs most; then does each stage once more by itself. Needs GNU time. Columns: candidates, stage,
# seconds on the clock, seconds of the processors, peak of resident memory in KiB.
set -eu
craft=$(realpath "$1"); out=$(realpath -m "$2"); dir=${3:-$(mktemp -d)}
mkdir -p "$dir"; cd "$dir"
cat > recipe.toml <<'R'
seed = 1
[model]
path = "pocket"
[prompts]
source = "pocket"
[expand]
templates = "pocket"
variants = 4
[generate]
steps = 1
guidance_scale = 1.0
height = 32
width = 32
batch = 32
[[rewards]]
name = "pocket-hps"
[[rewards]]
name = "pocket-pick"
[[rewards]]
name = "pocket-aes"
[select]
min_passes = 1
[train]
steps = 1
batch = 4
[control]
enabled = false
[evaluate]
samples_per_prompt = 1
R
echo "candidates,stage,seconds,cpu_seconds,peak_kib" > "$out"
for prompts in ${PROMPTS:-40 400 4000}; do
    run="run-$prompts"
    "$craft" run recipe.toml --out "$run" --threads 2 --set prompts.train_count="$prompts" \
        --set prompts.eval_count=$((prompts / 4)) > "$run.log" 2>&1
    n=$((prompts * 5))
    for stage in expand generate score select evaluate; do
        case $stage in
            expand) folder=expanded ;; generate) folder=candidates ;; score) folder=rewards ;;
            select) folder=selection ;; evaluate) folder=evaluation ;;
        esac
        rm -rf "${run:?}/$folder"
        # What scores know of pictures is asked anew.
        if [ $stage = score ]; then rm -rf "$run/cache"; fi
        /usr/bin/time -o time.txt -f "%e %U %S %M" "$craft" $stage "$run" --threads 2 >> "$run.log" 2>&1
        awk -v n="$n" -v s="$stage" '{ printf "%d,%s,%.2f,%.2f,%d\n", n, s, $1, $2 + $3, $4 }' time.txt >> "$out"
    done
    # A start that finds everything done.
    /usr/bin/time -o time.txt -f "%e %U %S %M" "$craft" evaluate "$run" --threads 2 >> "$run.log" 2>&1
    awk -v n="$n" '{ printf "%d,nothing to do,%.2f,%.2f,%d\n", n, $1, $2 + $3, $4 }' time.txt >> "$out"
done
