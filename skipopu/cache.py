"""Where builds are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """``$SKIPOPU_CACHE``, else ``skipopu`` in the user's cache directory."""
    if "SKIPOPU_CACHE" in os.environ:
        return Path(os.environ["SKIPOPU_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "skipopu"
