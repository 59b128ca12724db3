"""Grade a class with the nodes of a SLURM cluster: starts a Dask scheduler here and workers as batch jobs, then the grader.

    python scripts/slurm.py --jobs 32 --queue short -- submissions --week 4 --out results/week04

What stands after -- goes to `autograder grade`. Run it on a login node, or in a job of its own, in the course's folder on a file
system that all nodes share, with the course's environment active. It needs `pip install dask-jobqueue` beside the course's own
`dask` extra; nothing else of the course does. Ctrl-C ends grader and jobs; the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=8, help="batch jobs, one judge each (default 8)")
    parser.add_argument("--queue", help="SLURM's partition")
    parser.add_argument("--account", help="SLURM's account")
    parser.add_argument("--memory", default="3GB", help="of a job (default 3GB)")
    parser.add_argument("--walltime", default="02:00:00", help="of a job; one that is ended loses nothing (default 02:00:00)")
    parser.add_argument("--interface", help="network interface that nodes reach this machine by, such as ib0")
    parser.add_argument("--wait", type=int, default=3600, help="seconds to wait for the first job to start (default 3600)")
    parser.add_argument("--show", action="store_true", help="print the batch script and stop")
    parser.add_argument("grade", nargs="*", help="what `autograder grade` gets: the submissions, --week, --out")
    arguments = parser.parse_args()
    try:
        from dask_jobqueue import SLURMCluster
    except ModuleNotFoundError:
        print("dask-jobqueue is not installed: pip install dask-jobqueue", file=sys.stderr)
        return 2
    with SLURMCluster(
        queue=arguments.queue,
        account=arguments.account,
        cores=1,
        processes=1,
        memory=arguments.memory,
        walltime=arguments.walltime,
        interface=arguments.interface,
        python=sys.executable,
        job_script_prologue=[f"cd {ROOT}", f"export PYTHONPATH={ROOT} OMP_NUM_THREADS=1"],
        log_directory=str(ROOT / "build" / "slurm"),
    ) as cluster:
        if arguments.show:
            print(cluster.job_script())
            return 0
        cluster.scale(jobs=arguments.jobs)
        cluster.wait_for_workers(1, timeout=arguments.wait)
        words = [sys.executable, "-m", "autograder", "grade", *arguments.grade]
        return subprocess.run([*words, "--engine", "dask", "--scheduler", cluster.scheduler_address], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
