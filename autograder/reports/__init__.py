"""What instructors, TAs and students read of a run, made from its results alone."""
