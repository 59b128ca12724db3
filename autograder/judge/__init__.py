"""The trusted side: sessions with a worker, what checks are written with, and the scoring."""
