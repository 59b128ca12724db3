"""What the commands for learners share."""

from __future__ import annotations

import os

from autograder.manifest import Lang


def language() -> Lang:
    """The language to speak: AUTOGRADER_LANG if it is en or zh, else that of the locale, else English."""
    match os.environ.get("AUTOGRADER_LANG"):
        case "en":
            return "en"
        case "zh":
            return "zh"
    locale = next((text for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (text := os.environ.get(name))), "")
    return "zh" if locale.lower().startswith("zh") else "en"
