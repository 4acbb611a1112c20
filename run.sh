#!/usr/bin/env bash
# Reproduces all networks, from nothing to a table of results.
#
#   ./run.sh                      on a synthetic sample made here
#   MONUSEG_DIR=DIR ./run.sh      on MoNuSeg as downloaded; FOLD=1, 2 or 3
#                                 validates on another quarter of it
#   ./run.sh setup                only sets up
#   ./run.sh test                 sets up and runs the tests, or the tests in
#                                 the files that follow
#   ./run.sh benchmark            sets up every engine and measures them
#
# ENGINE chooses what it runs on, set up in a folder .venv-ENGINE:
#   tf1       TensorFlow 1.15 on Python 3.7, the reference, in Intel's build,
#             which is faster without a GPU
#   tf1-gpu   the same as tensorflow-gpu, which uses a GPU with CUDA 10.0
#   tf2       TensorFlow 2.15 on Python 3.9 to 3.11; with CUDA's libraries
#             where an NVIDIA driver is found
# ENGINE=onnx ./run.sh setup sets up what --mode=export writes ONNX with.
# Without ENGINE it is tf1 if a Python 3.7 and no NVIDIA driver is found, else
# tf2. PYTHON=/path/to/python chooses the interpreter. Where none is found, one
# is downloaded into .uv. What is set up, trained or predicted already is not
# done again.
set -euo pipefail
# Relative paths given by the user are meant from where they are.
MONUSEG_DIR=${MONUSEG_DIR:+$(realpath -m -- "$MONUSEG_DIR")}
PYTHON=${PYTHON:-}
if [[ $PYTHON == */* && $PYTHON != /* ]]; then
  PYTHON=$PWD/$PYTHON
fi
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")"

uv_version=0.6.17  # from 0.8 on it offers no Python 3.7
# Of the user's other programs: they would bring, or forbid, packages.
unset PYTHONPATH PYTHONHOME
export PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0

fail() {
  printf '%s\n' "error: $1" "${@:2}" >&2
  exit 1
}

[ -e requirements.txt ] || fail "$PWD: is not the project's folder; with \
SLURM, which copies scripts, give sbatch --wrap ./run.sh"

# Prints the first Python that is of one of the versions, "3.7" say, and can
# make an environment (Debian's cannot without python3-venv).
find_python() {
  local version candidate candidates
  for version in "$@"; do
    if [ -n "$PYTHON" ]; then
      candidates=("$PYTHON")
    else
      # Those of earlier set-ups last: PYTHON need be given only once.
      mapfile -t candidates < <(
        exec 2>/dev/null
        echo "python$version"
        ls "${PYENV_ROOT:-${HOME-}/.pyenv}/versions/$version".*/bin/python
        uv python find "$version"
        ls "$PWD/.uv/python/cpython-$version".*/bin/"python$version"
        realpath .venv-*/bin/python)
    fi
    for candidate in "${candidates[@]}"; do
      if [ "$("$candidate" -c 'import ensurepip, sys
print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$version" ]; then
        echo "$candidate"
        return
      fi
    done
  done
}

# Sets $uv to a uv in a folder of the project, installed there if need be, or
# to the user's where that cannot be.
get_uv() {
  local pip=python3 folder=.uv/uv-$uv_version
  uv=$folder/bin/uv
  if [ -x "$uv" ]; then
    return
  fi
  # Some distributions have pip, some venv, and Debian may have neither.
  if ! python3 -m pip --version; then
    pip=.uv/venv/bin/python
    if ! python3 -m venv --clear .uv/venv; then
      uv=$(command -v uv) && return
      echo 'python3 has neither pip nor venv (Debian and Ubuntu: sudo apt' \
        'install python3-pip)'
      return 1
    fi
  fi
  "$pip" -m pip install --disable-pip-version-check --only-binary :all: \
    --upgrade --target "$folder" "uv==$uv_version"
}

# Downloads a Python of one version into .uv/python and sets $python to it.
# Nothing outside .uv is changed, and UV_PYTHON_INSTALL_MIRROR is honoured.
download_python() {
  local version=$1
  echo "No Python found that ENGINE=$engine runs on: downloading Python" \
    "$version into .uv"
  mkdir -p .uv
  (
    flock 9
    get_uv && UV_NO_CONFIG=1 UV_PYTHON_INSTALL_BIN=0 \
      UV_PYTHON_INSTALL_DIR=$PWD/.uv/python \
      "$uv" python install --no-cache "$version"
  ) 9> .uv/lock > .uv/log 2>&1 || true
  python=$(find_python "$version")
  if [ -z "$python" ]; then
    fail "Python $version could not be downloaded; .uv/log ends in:\
 $(tail -n 1 .uv/log | sed 's/^ *//')" \
      "Without a network give PYTHON=/path/to/python$version; else try \
\"uvx uv@$uv_version python install $version\" or \"pyenv install $version\"."
  fi
}

has_driver() {
  [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi > /dev/null
}

# Sets $engine, $python to the interpreter for it, and $cuda to -cuda where it
# needs CUDA's libraries too.
choose_engine() {
  local versions reason=''
  local tf2=(3.11 3.10 3.9)
  engine=${ENGINE:-tf1}
  case $engine in
    tf1|tf1-gpu) versions=(3.7) ;;
    tf2) versions=("${tf2[@]}") ;;
    torch) versions=(3.11 3.12) ;;  # this and the next for the benchmark
    stardist|onnx) versions=(3.11 3.10) ;;  # onnx: for --mode=export alone
    *) fail "ENGINE=$ENGINE: unknown; give tf1, tf1-gpu or tf2" ;;
  esac
  python=$(find_python "${versions[@]}")
  if [ -z "${ENGINE:-}" ]; then
    if [ -z "$python" ]; then
      reason='No Python 3.7 found'
    elif [ -z "$PYTHON" ] && has_driver; then
      reason='NVIDIA driver found'
    fi
  fi
  if [ -n "$reason" ]; then
    engine=tf2 versions=("${tf2[@]}")
    python=$(find_python "${tf2[@]}")
    echo "$reason: TensorFlow 2.15 in place of 1.15."
  fi
  if [ -z "$python" ] && [ -n "$PYTHON" ]; then
    fail "PYTHON=$PYTHON is no such Python: TensorFlow 1.15 needs Python 3.7, \
and 2.15 (ENGINE=tf2) 3.9 to 3.11." \
      'Give another, or omit PYTHON: run.sh then finds or downloads one.'
  elif [ -z "$python" ]; then
    download_python "${versions[0]}"
  fi
  cuda=''
  if [ "$engine" = tf2 ] && has_driver; then
    cuda=-cuda
  fi
}

# Prints the packages of an engine, or of tf2-cuda.
requirements() {
  case $1 in
    tf1)
      sed 's/^tensorflow-gpu==.*/intel-tensorflow==1.15.2/' requirements.txt ;;
    tf1-gpu) cat requirements.txt ;;
    tf2) cat requirements-tf2.txt ;;
    tf2-cuda) cat requirements-tf2.txt requirements-cuda.txt ;;
    torch) cat benchmarks/requirements.txt ;;
    stardist) cat benchmarks/requirements-stardist.txt ;;
    onnx) cat requirements-onnx.txt ;;
  esac
}

# Whether $venv holds the packages of an engine.
holds() {
  cmp -s <(requirements "$1") "$venv/requirements.txt"
}

# Whether $venv is whole, stands where it was made, and runs, on the user's
# PYTHON if given. With CUDA it serves machines without a driver too.
is_ready() {
  local version
  local show='import sys; print(sys.version_info, sys.base_prefix)'
  { holds "$engine$cuda" || { [ "$engine" = tf2 ] && holds tf2-cuda; }; } \
    && (source "$venv/bin/activate" && [ "$VIRTUAL_ENV" -ef "$venv" ]) \
    && version=$("$venv/bin/python" -c "$show" 2>/dev/null) \
    && { [ -z "$PYTHON" ] || [ "$version" = "$("$python" -c "$show")" ]; }
}

make_environment() {
  echo "Setting up $venv with $("$python" --version)"
  if [ -n "$cuda" ]; then
    echo "NVIDIA driver found: with CUDA 12.2's libraries, some 2 GB."
  elif [ "$engine" = tf1 ]; then
    echo "Intel's build of TensorFlow 1.15, faster without a GPU." \
      'ENGINE=tf2 uses NVIDIA GPUs.'
  fi
  # One that lacks only CUDA is kept: another machine may be using it.
  if [ -z "$cuda" ] || ! cuda='' is_ready; then
    "$python" -m venv --clear "$venv"
  fi
  requirements "$engine$cuda" > "$venv/requirements.partial"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    -r "$venv/requirements.partial" \
    || fail "$venv: its packages could not be installed, see above; the same\
 command tries again"
  # The copy is made last, so a set-up that was cut short starts over.
  mv "$venv/requirements.partial" "$venv/requirements.txt"
}

# Sets up $engine in its folder, $venv, and points the link .venv to it.
set_up() {
  venv=.venv-$engine
  if ! is_ready; then
    (
      held=0
      flock --nonblock 9 2> /dev/null || held=$?
      if (( held == 1 )); then  # more than 1 where a drive has no locks
        echo "Waiting for another run.sh to set up $venv"
        flock 9
      fi
      is_ready || make_environment
    ) 9> "$venv.lock"  # NFS shares the lock of a file, not of a folder
  fi
  next="source $venv/bin/activate"
  if [ "$engine" = onnx ]; then  # no environment to work in
    next='python main.py --mode=export --net=unet'
  elif [[ -e .venv || -L .venv ]] \
    && [[ ! $(readlink .venv) =~ ^\.venv-(tf1|tf1-gpu|tf2|torch|stardist)$ ]]
  then
    echo "run.sh did not make .venv and leaves it; use $venv instead."
  else
    # At once: another run.sh may do the same.
    ln -sfn "$venv" ".venv.$$"
    mv -T ".venv.$$" .venv
  fi
}

main() { "$venv/bin/python" main.py "$@"; }

fold=${FOLD:-0}
[[ $# -le 1 || $1 == test ]] || fail "$*: unknown; variables such as ENGINE=tf2\
 go before ./run.sh"
case ${1:-} in
  '')
    [[ $fold == [0-3] ]] || fail "FOLD=$fold: unknown; give 0, 1, 2 or 3"
    [ -n "$MONUSEG_DIR" ] || [ "$fold" = 0 ] \
      || fail "FOLD=$fold: only for MoNuSeg; give MONUSEG_DIR too"
    [ -z "$MONUSEG_DIR" ] || [ -e "$MONUSEG_DIR" ] \
      || fail "MONUSEG_DIR=$MONUSEG_DIR: no such folder or file"
    ;;
  setup|test) ;;
  -h|--help)
    sed -n '2,/^set /s/^# \{0,1\}//p' run.sh
    exit ;;
  benchmark)
    for engine in torch stardist tf2 tf1-gpu tf1; do
      ENGINE=$engine ./run.sh setup
    done
    exec .venv-tf1/bin/python -m benchmarks.run ;;
  *) fail "$1: unknown; give ./run.sh, or with setup, test or benchmark" ;;
esac
if [[ ${ENGINE:-} =~ ^(onnx|torch|stardist)$ && ${1:-} != setup ]]; then
  fail "ENGINE=$ENGINE: only for export or the benchmark; give\
 ENGINE=$ENGINE ./run.sh setup"
fi
choose_engine
set_up
case ${1:-} in
  setup)
    echo "$venv is ready; next: $next"
    exit ;;
  test)  # two at once, each on one core
    export OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1
    exec "$venv/bin/python" -m pytest -q -n 2 --dist worksteal "${@:2}" ;;
esac

trap '(( $? == 0 )) || echo "run.sh stopped, see above; once that is mended,\
 the same command goes on" >&2' EXIT
if [ -n "$MONUSEG_DIR" ]; then
  data=data/monuseg models=checkpoints predictions=predictions/monuseg
  if [ "$fold" != 0 ]; then
    data=data/monuseg-fold$fold models=checkpoints/fold$fold
    predictions=predictions/monuseg-fold$fold
  fi
  train=(--mode=train)
  main --mode=prepare --data_dir="$data" --monuseg_dir="$MONUSEG_DIR" \
    --fold="$fold"
else
  echo 'MONUSEG_DIR is not set: using a synthetic sample.'
  data=data/sample models=checkpoints/sample predictions=predictions/sample
  # The sample is easy: a short training will do.
  train=(--mode=train --steps=220 --warmup_steps=30 --evaluate_every=110)
  main --mode=prepare --data_dir="$data" --sample
fi
split=validation
if [ -e "$data/test.h5" ]; then
  split="test"
fi

names=$("$venv/bin/python" -c 'import nets; print(*nets.NETS)')
read -ra nets <<< "$names"
for net in "${nets[@]}"; do
  use=(--net="$net" --model_dir="$models" --data_dir="$data")
  echo "== $net"
  main "${train[@]}" "${use[@]}"
  # Even if measured before: perhaps with other flags, or by older code.
  main --mode=eval "${use[@]}" --split=$split
  mark=$predictions/$net/done
  inputs=$(sha1sum "$models/$net/weights.h5" "$data/$split.h5")
  if [ "$(cat "$mark" 2> /dev/null)" != "$inputs" ]; then
    main --mode=predict "${use[@]}" --split=$split \
      --output_dir="$predictions/$net" --overwrite
    echo "$inputs" > "$mark"
  fi
done

echo
"$venv/bin/python" -c "import sys
from eval.report import compare_networks
print(compare_networks(sys.argv[2:], sys.argv[1]))" \
  $split "${nets[@]/#/$models/}"
echo "Split: $split. Pictures: $models/NET/${split}_pictures," \
  "curves: $models/NET/curves.png, predictions: $predictions/NET"
echo "Curves in TensorBoard: $venv/bin/tensorboard --host localhost" \
  "--logdir $models"
echo "To go on with these networks: $venv/bin/python main.py --mode=predict" \
  "--net=unet --model_dir=$models --images=DIR --output_dir=OUT." \
  "To measure: --mode=eval --net=unet --model_dir=$models --data_dir=$data"
