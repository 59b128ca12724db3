"""The course as a static site in both languages, with slides of each lecture: `python -m course.site`, docs/site.md."""
