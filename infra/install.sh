#!/usr/bin/env bash
# Installs finmaas and everything it needs into a virtual environment, from the lock files, checking every hash.
#
#   infra/install.sh [.venv]
#
#   ACCEL=cpu|gpu    which lock (default: cpu). gpu is vLLM's and PyTorch's CUDA build.
#   WHEELS=FOLDER    install from a folder of wheels (`make wheels` fills one), without any network.
#   PYTHON=python3.11
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${1:-.venv}
accel=${ACCEL:-cpu}
python=${PYTHON:-python3.11}

fail() { echo "install: $*" >&2; exit 1; }

command -v "$python" >/dev/null || fail "$python is not on the PATH; install Python 3.11, or name one: make setup PYTHON=/path/to/python3.11"
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || fail "$python is $("$python" -V 2>&1); the locks are made for Python 3.11"
command -v g++ >/dev/null || command -v c++ >/dev/null || fail "no C++ compiler (DeepSpeed needs one); apt-get install g++, or dnf install gcc-c++"
[ -f "requirements/$accel.txt" ] || fail "no lock requirements/$accel.txt; ACCEL is cpu or gpu"
free_kib=$(df -Pk . | awk 'NR==2 {print $4}')
[ "$free_kib" -gt 6291456 ] || fail "only $((free_kib / 1048576)) GiB free here; the packages want 6"

offline=()
if [ -n "${WHEELS:-}" ]; then
  [ -d "$WHEELS" ] || fail "WHEELS=$WHEELS is not a folder"
  [ -f "$WHEELS/built.txt" ] || fail "WHEELS=$WHEELS holds no built.txt; fill it with \`make wheels\`"
  offline=(--no-index --find-links "$WHEELS")
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
"${pip[@]}" install --no-deps --require-hashes "${offline[@]}" -r requirements/bootstrap.txt

if [ "$accel" = cpu ] && ! "$venv/bin/python" -c 'from importlib.metadata import version; assert version("torch") == "2.13.0+cpu"' 2>/dev/null; then
  # The CPU build of PyTorch is not on PyPI: first whatever index this machine is set up with, then PyTorch's own.
  torch=(install --no-deps --no-compile --require-hashes -r requirements/torch-cpu.txt)
  "${pip[@]}" "${torch[@]}" "${offline[@]}" 2>/dev/null \
    || "${pip[@]}" "${torch[@]}" --index-url https://download.pytorch.org/whl/cpu \
    || fail "the CPU build of torch could not be found; see docs/how-to/install.md"
fi

lock=requirements/$accel.txt
if [ -n "${WHEELS:-}" ]; then
  lock=$venv/offline-lock.txt
  "$venv/bin/python" infra/offline_lock.py "requirements/$accel.txt" "$WHEELS" > "$lock"
fi

# uv installs in seconds; pip, slower, knows indexes and certificates that uv was not told of.
uv=("$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps "${offline[@]}")
"${uv[@]}" --require-hashes -r "$lock" \
  || "${pip[@]}" install --no-deps --no-compile --require-hashes "${offline[@]}" -r "$lock"
"${uv[@]}" --no-build-isolation --editable . \
  || "${pip[@]}" install --no-deps --no-build-isolation "${offline[@]}" --editable .
