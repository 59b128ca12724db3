"""The checks, one folder a week; `autograder.judge` has what they are written with."""
