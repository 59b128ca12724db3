"""Grades the weekly exercises of the course, and tells students what they misunderstood."""


class UserError(Exception):
    """Something that the user can put right; its text is one line that says how."""
