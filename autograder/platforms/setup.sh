#!/bin/bash
# Gradescope runs this once, as root, when it builds the assignment's image. AUTOGRADER_PYTHON, where it is set, is used as it is.
set -eu
umask 022
base=${AUTOGRADER_BASE:-/autograder}
cd "$base/source"

new_enough() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null
}

if [ -z "${AUTOGRADER_PYTHON:-}" ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -y -q bubblewrap python3 python3-venv
    python=python3
    if ! new_enough python3; then # Ubuntu 22.04, Gradescope's default, has 3.10
        apt-get install -y -q software-properties-common
        add-apt-repository -y ppa:deadsnakes/ppa
        apt-get install -y -q python3.12 python3.12-venv
        python=python3.12
    fi
    new_enough "$python" || { echo "Python 3.11 to 3.14 is needed: choose a newer Ubuntu as base image" >&2; exit 1; }
    "$python" -m venv "$base/venv"
    "$base/venv/bin/python" -m pip install -q --no-cache-dir --disable-pip-version-check -c constraints.txt -r requirements.txt
fi

# Solutions and checks are for root alone: at level process, student code runs under another account.
chown -R "$(id -u):$(id -g)" .
chmod -R go= .
