"""From the sources to what is handed out: stubs, notebooks, syllabus, readings, the students' copy."""
