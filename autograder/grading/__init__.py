"""Grading a class: the pool of judges, their sandboxes, labs in kernels, and a cluster."""
