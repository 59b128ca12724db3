"""The part of the autograder that runs beside student code, and the only part that the sandbox can see.

Nothing here knows an answer: a reader of these files learns how values travel, not what they should be.
"""
