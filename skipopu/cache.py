"""Where builds are kept between runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def cache_directory() -> Path:
    """``$SKIPOPU_CACHE``, else ``skipopu`` in the user's cache directory."""
    if "SKIPOPU_CACHE" in os.environ:
        return Path(os.environ["SKIPOPU_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "skipopu"


def fill_once(directory: Path, make: Callable[[Path], None]) -> None:
    """Lets ``make`` write what ``directory`` is to hold unless it exists; who asks meanwhile, in any process, waits."""
    if directory.exists():
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{directory}.lock"):
        if directory.exists():
            return
        work = directory.with_name(f"{directory.name}.{os.getpid()}")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        make(work)
        work.rename(directory)
