#!/usr/bin/env bash
# Installs finmaas and everything it needs into a virtual environment, from the lock files, checking every hash.
#
#   infra/install.sh [.venv]
#
#   ACCEL=cpu|gpu    which lock (default: cpu). gpu is vLLM's and PyTorch's CUDA build.
#   WHEELS=FOLDER    install from a folder of wheels (`make wheels` fills one), without any network.
#   PYTHON=FILE      which Python 3.11; left out, the fastest that is here: some builds take half as long again
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${1:-.venv}
accel=${ACCEL:-cpu}

fail() { echo "install: $*" >&2; exit 1; }

# Prints the fastest Python 3.11 that has what is needed (venv, the headers for DeepSpeed's and our compilers). Python's
# own build decides: one without profile-guided optimisation costs the gateway a third of its speed.
fastest_python() {
  local probe='
import os, sys, time
import ensurepip, venv, sysconfig
assert sys.version_info[:2] == (3, 11) and os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
class One:
    def __init__(self, x): self.x = x
    def add(self, k): return self.x + k
def work(held={}):
    for i in range(40000):
        one = held[i & 63] = One(i)
        b"%b %d" % (b"abc", one.add(i))
times = []
for _ in range(7):
    began = time.perf_counter(); work(); times.append(time.perf_counter() - began)
print(int(min(times) * 1e6))'
  local best='' least=0 us one
  for one in $(type -ap python3.11) /usr/bin/python3.11 /usr/local/bin/python3.11; do
    us=$("$one" -I -c "$probe" 2>/dev/null) || continue
    if [ -z "$best" ] || [ $((us * 10)) -lt $((least * 9)) ]; then best=$one least=$us; fi
  done
  echo "$best"
}

python=${PYTHON:-}
[ -n "$python" ] || [ -x "$venv/bin/python" ] || python=$(fastest_python)
python=${python:-python3.11}

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
