"""The threads of the course: pages that cut across the weeks, and the scripts that make every number in them."""
