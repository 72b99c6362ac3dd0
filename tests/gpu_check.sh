#!/usr/bin/env bash
# All that is measured on a GPU, each step with a time limit that names it, and a table at the end.
#   tests/gpu_check.sh [training] [prediction] [STEP...]     DATA and WEIGHTS: photos to train on, weights of mobilenetv2_100
# training needs torch, prediction onnxruntime-gpu too. Both together are meant to take 12 minutes of an H100 at most. These
# run only if they are named: small, compiled, bf16 (training); hw1_graphs, rapid_graphs (prediction).
set -u
cd "$(dirname "$0")/.."
DATA=${DATA:-../shared/data/grocery20} WEIGHTS=${WEIGHTS:-../shared/weights/mobilenetv2_100.pth} LOGS=${OUT:-$(mktemp -d)}
PYTHON=${PYTHON:-python3} MODEL=${MODEL:-$(mktemp -d)/resnet152_fp16.onnx} # made once
TRAINING="gpu_tests steps precision" PREDICTION="onnx_tests hw1 rapid wrong_option predict model scaling"
small=("$DATA" --arch mobilenetv2_100 --weights "$WEIGHTS")
table=""

step() { # NAME SECONDS LINES COMMAND...: run it for so long at most, show the last lines of what it says
    local name=$1 limit=$2 lines=$3 begun=$SECONDS status
    shift 3
    printf '\n== %s\n' "$name"
    timeout --kill-after=5 "$limit" "$@" > "$LOGS/$name.log" 2>&1
    status=$?
    tail -n "$lines" "$LOGS/$name.log" | cut -c1-240
    [ $status -eq 124 ] && echo "$name: stopped after its limit of $limit s"
    table+="$(printf '%-13s exit %-4s %4d s  %s' "$name" $status $((SECONDS - begun)) "$(tail -n 1 "$LOGS/$name.log" | cut -c1-150)")"$'\n'
}

run() {
    case $1 in
        gpu_tests) step $1 170 30 "$PYTHON" -m pytest -q -m gpu -n 4 --dist worksteal tests/flows/test_gpu.py --durations=6 -p no:cacheprovider ;;
        steps) step $1 260 16 "$PYTHON" tests/bench/gpu.py ours by_hand nchw ceiling graphs ;; # more sides fill the card
        small) step $1 150 8 env ARCH=mobilenetv2_100 BS=64 STEPS=200 WARM=50 "$PYTHON" tests/bench/gpu.py ours graphs ;;
        compiled) step $1 200 6 "$PYTHON" tests/bench/gpu.py ours compiled ;;
        bf16) step $1 170 6 "$PYTHON" tests/bench/gpu.py ours bf16 ;;
        precision) step $1 90 3 "$PYTHON" tests/bench/precision.py "$DATA" "$WEIGHTS" 5 ;;
        onnx_tests) step $1 120 30 "$PYTHON" -m pytest -q -m gpu -n 4 --dist worksteal tests/flows/test_gpu.py --durations=4 -p no:cacheprovider \
            tests/export/reading/test_readers.py -k "of_the_cpu or on_a_cpu or auto or verified or pinned or tensorrt or minutes" ;;
        hw1) step $1 100 8 "$PYTHON" tests/bench/short.py hw1 "${small[@]}" --bs 64 --epochs 5 ;;
        hw1_graphs) step $1 100 8 "$PYTHON" tests/bench/short.py hw1 "${small[@]}" --bs 64 --epochs 5 --cuda_graphs ;;
        rapid_graphs) step $1 100 8 "$PYTHON" tests/bench/short.py rapid "${small[@]}" --cuda_graphs ;;
        rapid) step $1 100 8 "$PYTHON" tests/bench/short.py rapid "${small[@]}" ;;
        wrong_option) step $1 40 2 bash -c "TIMEFORMAT='said after %R s'; time $PYTHON -m recipes.hw1 --epochs none" ;;
        predict) step $1 130 16 "$PYTHON" tests/bench/predict.py gpu --precision fp16 --rounds 2 --model "$MODEL" ;;
        model) step $1 130 16 "$PYTHON" tests/bench/predict.py alone --precision fp16 --model "$MODEL" ;;
        scaling) step $1 60 16 "$PYTHON" tests/bench/predict.py lock scaling ;;
        *) echo "unknown step $1: choose of training, prediction, $TRAINING small compiled bf16 $PREDICTION hw1_graphs rapid_graphs"; exit 2 ;;
    esac
}

[ $# -gt 0 ] || set -- training prediction
for word in "$@"; do
    case $word in training) names=$TRAINING ;; prediction) names=$PREDICTION ;; *) names=$word ;; esac
    for name in $names; do run "$name"; done
done
printf '\n%s\n%s' "$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null || echo no GPU)" "$table"
