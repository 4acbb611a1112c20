#!/usr/bin/env bash
# Reproduces all three networks, from nothing to a table of results.
#
#   ./run.sh                      on a synthetic sample made here
#   MONUSEG_DIR=DIR ./run.sh      on MoNuSeg as downloaded
#   ./run.sh test                 sets up and runs the tests
#
# PYTHON=/path/to/python3.7 chooses the interpreter. What is done already is
# not done again.
set -euo pipefail
# Relative paths given by the user are meant from where they are.
MONUSEG_DIR=${MONUSEG_DIR:+$(realpath -m -- "$MONUSEG_DIR")}
cd "$(dirname "${BASH_SOURCE[0]}")"

is_python37() {
  [ "$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' \
      2>/dev/null)" = 3.7 ]
}

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.7 \
      "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.7*/bin/python \
      "$(uv python find 3.7 2>/dev/null || true)"; do
    if [ -n "$candidate" ] && is_python37 "$candidate"; then
      echo "$candidate"
      return
    fi
    if [ -n "${PYTHON:-}" ]; then
      echo "error: PYTHON=$PYTHON is not a Python 3.7 that runs." >&2
      echo 'Correct it, or leave it out to have one looked for.' >&2
      return 1
    fi
  done
  echo 'error: no Python 3.7 found; TensorFlow 1.15 runs on nothing newer.' >&2
  echo 'Get one with "uv python install 3.7" or "pyenv install 3.7", or give' \
    'PYTHON=/path/to/python3.7.' >&2
  return 1
}

set_up() {
  # The copy is made last, so a set-up that was cut short starts over.
  if cmp -s requirements.txt .venv/requirements.txt; then
    return
  fi
  local python
  python=$(find_python)
  echo "Setting up .venv with $("$python" --version)"
  "$python" -m venv --clear .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    -r requirements.txt
  cp requirements.txt .venv/requirements.txt
}

main() { .venv/bin/python main.py "$@"; }

set_up
if [ "${1:-}" = test ]; then
  exec .venv/bin/python -m pytest -q
elif [ $# -gt 0 ]; then
  echo "error: $1: unknown; ./run.sh or ./run.sh test" >&2
  exit 1
fi

if [ -n "$MONUSEG_DIR" ]; then
  data=data/monuseg models=checkpoints predictions=predictions/monuseg
  recipe=()
  main --mode=prepare --data_dir=$data --monuseg_dir="$MONUSEG_DIR"
else
  echo 'MONUSEG_DIR is not set: using a synthetic sample.'
  data=data/sample models=checkpoints/sample predictions=predictions/sample
  # The sample is easy: a short training will do.
  recipe=(--steps=300 --crop_size=128 --warmup_steps=30 --evaluate_every=150)
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
from eval.evaluate import results_table
print(results_table(sys.argv[2:], sys.argv[1]))" \
  $split "${nets[@]/#/$models/}"
echo "Split: $split. Pictures: $models/NET/${split}_pictures," \
  "curves: $models/NET/curves.png, predictions: $predictions/NET"
echo "Curves in TensorBoard: .venv/bin/tensorboard --logdir $models"
