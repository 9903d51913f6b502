#!/usr/bin/env bash
# GPU tests and GPU figures in at most 9 minutes, without network: one table, and JSON lines in $OUT/gpu.jsonl
# (default: bench/results/gpu.jsonl).
#
#   bench/gpu.sh                 on a machine with a CUDA device
#   bench/gpu.sh --rehearse      the same programs with tiny models on a CPU, to find mistakes of the script
#   bench/gpu.sh --only tests    parts by name: tests, training, decoding
#
# PYTHON=python3.12 selects the interpreter; by default that of .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1
exec "$PYTHON" -m bench.gpu "$@"
