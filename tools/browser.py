"""Find the browser that the site check drives."""

from __future__ import annotations

import os
import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
CURE = "no Chromium on the path; install one with: apt-get install chromium"


def find_browser() -> str | None:
    """The path of an installed Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def browser_is_required() -> bool:
    """Whether a missing browser is a failure: it is wherever nobody reads the log to the end."""
    return os.environ.get("CI", "").lower() in ("1", "true")
