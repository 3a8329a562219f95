#!/usr/bin/env bash
# Makes target/python-client: a Python environment with the libraries, and the code that they generate from
# proto/. Nothing of it is in the repository; run this again when the .proto files have changed.
set -euo pipefail
cd "$(dirname "$0")"

environment=../../target/python-client
python3 -m venv "$environment"
"$environment/bin/pip" install --quiet --disable-pip-version-check --requirement requirements.txt

packages=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$environment/bin/python" -m grpc_tools.protoc --proto_path=../../proto/proto \
    --python_out="$packages" --pyi_out="$packages" --grpc_python_out="$packages" \
    concord/v1/transaction.proto concord/v1/coordinator.proto
