"""Grades the weekly exercises of the course, and tells students what they misunderstood."""
