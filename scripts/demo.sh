#!/bin/sh
# Writes a sample class (right, wrong and broken answers) for each week and grades it, sandboxed as well as this machine allows.
# WEEKS='2 4' takes those weeks only, STUDENTS=24 a larger class.
set -eu
cd "$(dirname "$0")/.."

level=bwrap
if problem=$(.venv/bin/python -c 'from autograder.grading.sandbox import bwrap_problem as p; import sys; sys.exit(p() or 0)' 2>&1); then :; else
    echo "$problem" >&2
    echo "going on at level process: reduced isolation" >&2
    level=process
fi
weeks=${WEEKS:-$(.venv/bin/python -c 'from autograder.manifest import load; print(*[w.number for w in load().weeks if w.tasks])')}
for week in $weeks; do
    echo "--- week $week"
    .venv/bin/autograder sample "build/demo/week$week/submissions" --week "$week" --students "${STUDENTS:-12}"
    .venv/bin/autograder grade "build/demo/week$week/submissions" --week "$week" --out "build/demo/week$week/results-$level" --isolation "$level"
done
