#!/usr/bin/env bash
# Reproduces all three networks, from nothing to a table of results.
#
#   ./run.sh                      on a synthetic sample made here
#   MONUSEG_DIR=DIR ./run.sh      on MoNuSeg as downloaded; FOLD=1, 2 or 3
#                                 validates on another quarter of it
#   ./run.sh setup                only sets up .venv
#   ./run.sh test                 sets up and runs the tests, or those of the
#                                 files that follow
#   ./run.sh benchmark            sets up every engine and measures them
#
# PYTHON=/path/to/python chooses the interpreter, and ENGINE what runs on it:
#   tf1       TensorFlow 1.15 on Python 3.7, the reference; without an NVIDIA
#             driver Intel's build of it
#   tf1-gpu   the same, always as tensorflow-gpu
#   tf2       TensorFlow 2.15 on Python 3.9 to 3.11
# Without ENGINE it is tf1 if a Python 3.7 is found, else tf2. What is done
# already is not done again.
set -euo pipefail
# Relative paths given by the user are meant from where they are.
MONUSEG_DIR=${MONUSEG_DIR:+$(realpath -m -- "$MONUSEG_DIR")}
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() {
  printf '%s\n' "error: $1" "${@:2}" >&2
  exit 1
}

# Prints the first Python that runs and is of one of the versions, "3.7" say.
find_python() {
  local version candidate candidates
  for version in "$@"; do
    if [ -n "${PYTHON:-}" ]; then
      candidates=("$PYTHON")
    else
      # Those of earlier set-ups last: PYTHON need be given only once.
      mapfile -t candidates < <(
        exec 2>/dev/null
        echo "python$version"
        ls "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python
        uv python find "$version"
        realpath .venv-*/bin/python)
    fi
    for candidate in "${candidates[@]}"; do
      if [ "$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' \
          2>/dev/null)" = "$version" ]; then
        echo "$candidate"
        return
      fi
    done
  done
}

# Sets $engine, $python to the interpreter for it, and $intel to whether
# Intel's build takes the place of tensorflow-gpu.
choose_engine() {
  engine=${ENGINE:-tf1}
  case $engine in
    tf1|tf1-gpu) python=$(find_python 3.7) ;;
    tf2) python=$(find_python 3.11 3.10 3.9) ;;
    torch) python=$(find_python 3.11 3.12 3.10) ;;  # for the benchmark
    *) fail "ENGINE=$ENGINE: unknown; give tf1, tf1-gpu or tf2" ;;
  esac
  if [ -z "$python" ] && [ -z "${ENGINE:-}" ]; then
    engine=tf2 python=$(find_python 3.11 3.10 3.9)
    if [ -n "$python" ]; then
      echo "No Python 3.7 found: TensorFlow 2.15 on $("$python" --version)" \
        'in place of 1.15.'
    fi
  fi
  if [ -z "$python" ]; then
    fail "${PYTHON:+PYTHON=$PYTHON is no such Python: }TensorFlow 1.15 needs \
Python 3.7, and 2.15 (ENGINE=tf2) 3.9 to 3.11." \
      'Get one with "uv python install 3.7" or "pyenv install 3.7", or give PYTHON=/path/to/python.'
  fi
  intel=false
  if [ "$engine" = tf1 ] && [ ! -e /proc/driver/nvidia/version ] \
      && ! command -v nvidia-smi > /dev/null; then
    intel=true
  fi
}

requirements() {
  case $engine in
    tf1|tf1-gpu)
      if $intel; then
        sed 's/^tensorflow-gpu==.*/intel-tensorflow==1.15.2/' requirements.txt
      else
        cat requirements.txt
      fi ;;
    tf2) cat requirements-tf2.txt ;;
    torch) cat benchmarks/requirements.txt ;;
  esac
}

set_up() {
  local venv=.venv-$engine
  if ! cmp -s <(requirements) "$venv/requirements.txt"; then
    echo "Setting up $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
    requirements > "$venv/requirements.partial"
    if $intel; then
      echo "No NVIDIA driver found: Intel's build of TensorFlow 1.15, faster" \
        'without a GPU, in place of tensorflow-gpu.'
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      -r "$venv/requirements.partial"
    # The copy is made last, so a set-up that was cut short starts over.
    mv "$venv/requirements.partial" "$venv/requirements.txt"
  fi
  [ -L .venv ] || rm -rf .venv
  ln -sfn "$venv" .venv
}

main() { .venv/bin/python main.py "$@"; }

fold=${FOLD:-0}
case ${1:-} in
  '') [[ $fold == [0-3] ]] || fail "FOLD=$fold: unknown; give 0, 1, 2 or 3" ;;
  setup|test) ;;
  benchmark)
    for engine in torch tf2 tf1-gpu tf1; do
      ENGINE=$engine ./run.sh setup
    done
    exec .venv/bin/python -m benchmarks.run ;;
  *) fail "$1: unknown; give ./run.sh, or with setup, test or benchmark" ;;
esac
choose_engine
set_up
case ${1:-} in
  setup) exit ;;
  test) exec .venv/bin/python -m pytest -q "${@:2}" ;;
esac

if [ -n "$MONUSEG_DIR" ]; then
  data=data/monuseg models=checkpoints predictions=predictions/monuseg
  if [ "$fold" != 0 ]; then
    data=data/monuseg-fold$fold models=checkpoints/fold$fold
    predictions=predictions/monuseg-fold$fold
  fi
  recipe=()
  main --mode=prepare --data_dir=$data --monuseg_dir="$MONUSEG_DIR" \
    --fold="$fold"
else
  echo 'MONUSEG_DIR is not set: using a synthetic sample.'
  data=data/sample models=checkpoints/sample predictions=predictions/sample
  # The sample is easy: a short training will do.
  recipe=(--steps=220 --crop_size=128 --warmup_steps=30 --evaluate_every=110)
  main --mode=prepare --data_dir=$data --sample
fi
split=validation
if [ -e $data/test.h5 ]; then
  split=test
fi

nets=(segnet unet deeplabv3)
for net in "${nets[@]}"; do
  folder=$models/$net
  use=(--net="$net" --model_dir=$models)
  echo "== $net"
  main --mode=train "${use[@]}" --data_dir=$data "${recipe[@]}"
  if [ ! $folder/$split.json -nt $folder/best/best.json ]; then
    main --mode=eval "${use[@]}" --data_dir=$data --split=$split
  fi
  if [ ! $predictions/"$net"/done -nt $folder/best/best.json ]; then
    main --mode=predict "${use[@]}" --images="$data/held_out_images/*.png" \
      --output_dir=$predictions/"$net"
    touch $predictions/"$net"/done
  fi
done

echo
.venv/bin/python -c "import sys
from eval.evaluate import compare_networks
print(compare_networks(sys.argv[2:], sys.argv[1]))" \
  $split "${nets[@]/#/$models/}"
echo "Split: $split. Pictures: $models/NET/${split}_pictures," \
  "curves: $models/NET/curves.png, predictions: $predictions/NET"
echo "Curves in TensorBoard: .venv/bin/tensorboard --logdir $models"
