#!/bin/sh
# Every test, in two processes at once that take about as long: the tooling's here, those of the weeks, their notebooks and texts, and what
# grades in processes of its own, into a log that is shown at the end.
set -u
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
mkdir -p build
weeks="tests/test_semester.py tests/test_labrun.py tests/test_nbjudge.py tests/test_lectures.py tests/test_threads.py
tests/test_project.py tests/week* tests/labs tests/test_notebooks.py"
# tests/browser needs a Chromium, tests/postgres a PostgreSQL: make nightly
ignored=$(for path in $weeks tests/browser tests/postgres; do printf ' --ignore=%s' "$path"; done)
# shellcheck disable=SC2086
.venv/bin/python -m pytest -p no:cacheprovider $weeks > build/test-weeks.log 2>&1 &
other=$!
trap 'kill $other 2>/dev/null' INT TERM
# shellcheck disable=SC2086
.venv/bin/python -m pytest $ignored
one=$?
echo "the weeks, their notebooks and texts (build/test-weeks.log):"
wait $other
two=$?
cat build/test-weeks.log
[ $one -eq 0 ] && [ $two -eq 0 ]
