"""Runs `python -m course.site`."""

import sys

from course.site.build import main

if __name__ == "__main__":
    sys.exit(main())
