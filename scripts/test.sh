#!/bin/sh
# The tests, in three processes at once: the tooling's here; into logs that are shown at the end, those of the weeks, their notebooks and
# texts, and what grades in processes of its own; and a semester and the attacks, which mostly wait. make nightly has the rest.
set -u
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
mkdir -p build
weeks="tests/test_faults.py tests/test_labrun.py tests/test_nbjudge.py tests/test_lectures.py tests/test_threads.py
tests/test_project.py tests/week* tests/labs tests/test_notebooks.py tests/test_contributing.py tests/test_writing_a_check.py
tests/test_release.py tests/test_home.py tests/test_learner.py tests/test_watch.py tests/test_cluster.py"
# Executing a notebook takes a minute: those of weeks 0 and 12 are executed here, all by make nightly and make site.
notebooks=$(for week in 01 02 03 04 05 06 07 08 09 10 11; do printf ' --ignore=tests/week%s/test_notebook.py' "$week"; done)
attacks="tests/test_semester.py tests/test_attacks.py"
# What grades in this very process comes first: a fork wants no other threads, and a Dask client leaves some.
# tests/browser needs a Chromium, tests/postgres a PostgreSQL: make nightly
ignored=$(for path in $weeks $attacks tests/browser tests/postgres; do printf ' --ignore=%s' "$path"; done)
# shellcheck disable=SC2086
.venv/bin/python -m pytest -p no:cacheprovider $notebooks $weeks > build/test-weeks.log 2>&1 &
weeks_pid=$!
.venv/bin/python -m pytest -p no:cacheprovider $attacks > build/test-attacks.log 2>&1 &
attacks_pid=$!
trap 'kill $weeks_pid $attacks_pid 2>/dev/null' INT TERM
# shellcheck disable=SC2086
.venv/bin/python -m pytest $ignored
status=$?
for name in weeks attacks; do
    echo "build/test-$name.log:"
    eval "wait \$${name}_pid" || status=1
    cat "build/test-$name.log"
done
exit $status
