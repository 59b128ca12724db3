"""The grader is graded: wrong answers that must lose points, right ones that must keep them."""
