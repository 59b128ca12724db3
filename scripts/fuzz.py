"""Coverage-guided fuzzing of what reads bytes that a student chose, with atheris (libFuzzer).

    python scripts/fuzz.py --seconds 300 wire

runs one target of tests/fuzz for so long, from its seeds and from build/fuzz/TARGET, where the inputs that reached something new
are kept; without a target, all of them one after the other. An exception that is not declared, more than 512 MiB of memory, or an
input that takes 30 s is a finding: its bytes are in build/fuzz/TARGET.finding-*, and the command fails. Put the file into
tests/fuzz/found/TARGET once the cause is mended: tests/test_fuzz.py tries it from then on.

Needs the extra `fuzz`: pip install -c constraints.txt -e ".[fuzz]". Linux only. Ends with a line of executions and coverage.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.fuzz import TARGETS  # noqa: E402

MEMORY_MIB = 512
# What is measured for coverage: what a target is there to try, and nothing of the libraries.
WATCHED = {
    "wire": ["autograder.inside.wire"],
    "archive": ["autograder.intake", "zipfile"],
    "folder": ["autograder.intake"],
    "notebook": ["autograder.reports.sanitise", "autograder.grading.labrun", "autograder.judge.answers"],
    "results": ["autograder.results"],
    "files": ["autograder.judge.files"],
}


def fuzz(target: str, seconds: int) -> int:
    """Run one target in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=WATCHED[target], enable_loader_override=False):
        module = importlib.import_module(f"tests.fuzz.{target}")
    corpus = ROOT / "build" / "fuzz" / target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(module.SEEDS):
        (corpus / f"seed-{number:02}").write_bytes(seed)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (MEMORY_MIB << 20),) * 2)
    options = [f"-max_total_time={seconds}", "-timeout=30", "-max_len=65536", "-print_final_stats=1", "-verbosity=1"]
    options += [f"-artifact_prefix={corpus}.finding-", "-reload=0", "-seed=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], module.one)
    atheris.Fuzz()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # in the process that libFuzzer ends
    options = parser.parse_args()
    if options.here:
        return fuzz(options.target, options.seconds)
    if importlib.util.find_spec("atheris") is None:
        print('fuzzing needs atheris: pip install -c constraints.txt -e ".[fuzz]"', file=sys.stderr)
        return 2
    failed = 0
    for target in [options.target] if options.target else TARGETS:
        command = [sys.executable, __file__, target, "--here", "--seconds", str(options.seconds)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace", check=False)
        log = done.stdout + done.stderr
        runs = re.findall(r"number_of_executed_units: (\d+)", log)
        edges = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", log)
        said = f"{runs[-1] if runs else 'unknown'} executions, {edges[-1][0]} edges, {edges[-1][1]} features" if edges else "none"
        print(f"{target}: {said}; {'a finding' if done.returncode else 'nothing found'}", flush=True)
        if done.returncode:
            print("\n".join(log.splitlines()[-60:]))
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
