#!/usr/bin/env bash
# Writes protos/gen from protos/warmlane. With --check: changes nothing and fails when protos/gen is stale.
set -euo pipefail
cd "$(dirname "$0")"
out=gen
if [[ ${1:-} == --check ]]; then
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
fi
rm -rf "${out:?}/warmlane"
mapfile -t sources < <(find warmlane -name '*.proto' | sort)
python -m grpc_tools.protoc -I. --python_out="$out" --grpc_python_out="$out" --mypy_out=quiet:"$out" --mypy_grpc_out=quiet:"$out" "${sources[@]}"
# No rpc in a file: no gRPC module for it.
for source in "${sources[@]}"; do
  grep -q '^service ' "$source" || rm -f "$out/${source%.proto}"_pb2_grpc.py*
done
find "$out/warmlane" -type d -exec touch {}/__init__.py \;
touch "$out/warmlane/py.typed"
if [[ $out != gen ]]; then
  diff -r "$out/warmlane" gen/warmlane --exclude=__pycache__ || { echo "protos/gen is stale: run 'make protos' and commit it."; exit 1; }
fi
