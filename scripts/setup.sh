#!/usr/bin/env bash
# Creates $VENV and installs flantune with the exact versions of constraints.txt. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."
VENV="${VENV:-.venv}"
PYTHON="${PYTHON:-python3}"

for candidate in "$PYTHON" python3.13 python3.12 python3.11; do
  if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found="$candidate"; break; fi
done
if [ -z "${found:-}" ]; then
  echo "setup: flantune needs Python 3.11 or newer; none found. Set PYTHON=/path/to/python." >&2
  exit 2
fi
[ -x "$VENV/bin/python" ] || "$found" -m venv "$VENV"
export PIP_DISABLE_PIP_VERSION_CHECK=1
pip="$VENV/bin/python -m pip install --quiet --constraint constraints.txt"
if ! "$VENV/bin/python" -c 'import torch' 2>/dev/null; then
  torch=$(grep -E '^torch==' constraints.txt)
  if command -v nvidia-smi >/dev/null 2>&1; then
    $pip "$torch"
  else
    # Without a GPU the CPU build, a tenth of the size: from a local wheel folder where pip is set up with one, else from
    # PyTorch's own index, else whatever the default index has.
    $pip --no-index --no-deps "$torch" 2>/dev/null ||
      $pip --no-deps --retries 0 --timeout 15 --index-url https://download.pytorch.org/whl/cpu "$torch" 2>/dev/null ||
      $pip "$torch"
  fi
fi
$pip "setuptools>=77"
$pip --no-build-isolation --editable '.[test,lint,hub]'
