#!/usr/bin/env bash
# Runs the client against real databases, services and coordinators: those of the demos.
set -euo pipefail
cd "$(dirname "$0")"

./setup.sh
environment=../../target/python-client
"$environment/bin/pip" install --quiet --disable-pip-version-check --requirement requirements-test.txt
# Leaves no bytecode and no cache beside the sources.
PYTHONDONTWRITEBYTECODE=1 exec "$environment/bin/python" -m pytest -p no:cacheprovider --verbose "$@"
