"""Builds the small pretrained models that the labs ship: `python -m course.labs.pretrain llama`."""
