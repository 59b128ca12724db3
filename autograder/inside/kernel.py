"""Inside the sandbox: give up everything that a notebook must not have, then become its Jupyter kernel.

Started as `python -m autograder.inside.kernel LIMITS ipykernel arguments`, where LIMITS is JSON with cpu_seconds, memory_mib and
file_mib. Bubblewrap has made the namespaces already, and there is nothing in them but this.
"""

from __future__ import annotations

import json
import os
import sys

from autograder.inside import confine


def main() -> None:
    limits = json.loads(sys.argv[1])
    arguments = sys.argv[2:]
    confine.limit(limits["cpu_seconds"], limits["memory_mib"], limits["file_mib"])
    confine.drop_privileges()
    confine.filter_system_calls(kernel=True)  # before there is a second thread, which would be without
    os.environ["AUTOGRADER_GRADING"] = "1"  # autograder.check() says "graded separately"
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    from ipykernel.kernelapp import IPKernelApp

    app = IPKernelApp.instance()
    app.initialize(arguments)
    app.start()


if __name__ == "__main__":
    main()
