"""From scores to marks: a course folder, nbgrader's gradebook, the files that schools keep marks in."""
