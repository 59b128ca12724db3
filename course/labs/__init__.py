"""What the notebooks import: the student's own file, models, data, training, meters, plots.

`LAB_PROFILE=tiny` (the default) runs every notebook on two CPU cores without a network; `LAB_PROFILE=full` runs the same cells
with the models and data of the papers, on a GPU. A profile changes names and sizes here, never a cell.
"""

from course.labs.core import (
    LabStop,
    answer,
    language,
    pick,
    predict,
    profile,
    progress,
    record,
    sizes,
    student,
)

__all__ = ["LabStop", "answer", "language", "pick", "predict", "profile", "progress", "record", "sizes", "student"]
