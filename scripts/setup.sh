#!/bin/sh
# Makes .venv with what pyproject.toml and constraints.txt say, and sees to bubblewrap. Does nothing that is done already.
set -eu
cd "$(dirname "$0")/.."

if [ ! -x .venv/bin/python ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "Python 3.11 or newer is needed: set PYTHON=/path/to/python3.11" >&2
        exit 1
    }
    "${PYTHON:-python3}" -m venv .venv
fi
stamp=$(cat pyproject.toml constraints.txt | cksum)
if [ "$(cat .venv/.installed 2>/dev/null)" != "$stamp" ]; then
    echo "installing into .venv (about 2.5 GB, a few minutes the first time)"
    extras=labs
    [ -d solutions ] && extras=dask,dev,labs,site  # not in the students' copy
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extras]"
    echo "$stamp" > .venv/.installed
fi

if [ -d autograder/grading ] && [ "$(uname)" = Linux ] && ! command -v bwrap >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing bubblewrap, the sandbox"
        { apt-get update -qq && apt-get install -y -qq bubblewrap; } >/dev/null || true
    fi
    command -v bwrap >/dev/null || echo "bubblewrap is missing; for full isolation: sudo apt install bubblewrap" >&2
fi
