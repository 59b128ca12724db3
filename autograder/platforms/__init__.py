"""A week as an assignment on platforms that others run."""
