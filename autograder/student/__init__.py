"""What somebody has who works through the course: its commands, and the checks at home."""
