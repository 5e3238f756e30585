"""Where builds are kept between runs."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from skipopu.errors import SkipopuError

MANIFEST = "complete.json"  # written last: every file's digest
PARTIAL = re.compile(r"(.+)\.(partial|\d+)")  # a folder that is being filled, or was when its process ended
FAILED = "failed"  # in a partial folder: it is kept for its log, for a day
LOG_SECONDS = 24 * 3600


def cache_directory() -> Path:
    """``$SKIPOPU_CACHE`` unless that is empty, else ``skipopu`` in the user's cache directory; absolute."""
    return _absolute(os.environ.get("SKIPOPU_CACHE", ""), os.environ.get("XDG_CACHE_HOME", ""))


@functools.cache
def _absolute(own: str, users: str) -> Path:
    """A relative path counts from the directory of the first call on."""
    return Path(own).absolute() if own else Path(users or Path.home() / ".cache").absolute() / "skipopu"


@contextmanager
def _usable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SkipopuError(
            f"the cache {cache_directory()} cannot be used: {error.strerror or error} ({error.filename}); SKIPOPU_CACHE names another folder"
        ) from None


def cache_entry(kind: str, name: str, digest: str) -> Path:
    """Folder of the cache for something of this ``name``, which may be any text, and content."""
    with _usable():
        (cache_directory() / kind).mkdir(parents=True, exist_ok=True)
    return cache_directory() / kind / f"{re.sub(r'[^A-Za-z0-9_-]', '_', name)[:60]}-{digest[:20]}"


def fill_once(directory: Path, make: Callable[[Path], object], say: Callable[[str], None] = lambda line: None) -> None:
    """Lets ``make`` write what ``directory`` is to hold, unless all of it is there as it was written.

    Who asks meanwhile, in any process, waits. What ended processes left of other folders beside it is removed.

    Raises:
        SkipopuError: the cache cannot be written; what ``make`` raises, and then its folder is left for the log in it.
    """
    if complete(directory):
        return
    with _usable():
        directory.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(directory)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say("waiting for another process that builds the same")
            lock.acquire()
    try:
        if complete(directory):
            return
        work = directory.with_name(f"{directory.name}.partial")
        with _usable():
            for old in (directory, work):
                shutil.rmtree(old, ignore_errors=True)
            _sweep(directory.parent)
            work.mkdir()
        try:
            make(work)
            manifest = work / MANIFEST  # may be there already: of an entry that ``make`` started from
            files = (file for file in work.rglob("*") if file.is_file() and file != manifest)
            digests = {str(file.relative_to(work)): _digest(file) for file in files}
            manifest.write_text(json.dumps(digests))
            work.rename(directory)
        except SkipopuError:
            (work / FAILED).touch()
            raise
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
    finally:
        lock.release()


def complete(directory: Path) -> bool:
    """Whether ``directory`` was filled and every file in it is still what it was."""
    try:
        return all(
            _digest(directory / name) == digest for name, digest in json.loads((directory / MANIFEST).read_text()).items()
        )
    except (OSError, ValueError, AttributeError):
        return False


def clear(kind: str | None = None) -> tuple[int, list[Path]]:
    """Removes what is kept, of one kind or all; (bytes freed, folders left since a process is filling them)."""
    freed, used = 0, []
    with _usable():
        for entry in _entries(kind):
            with _unless_used(entry) as free:
                if not free:
                    used.append(entry)
                    continue
                freed += _size(entry)
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return freed, used


def kinds() -> dict[str, tuple[int, int]]:
    """What is kept: (entries, bytes) by kind."""
    with _usable():
        root = cache_directory()
        names = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.exists() else []
        return {name: (len(entries := _entries(name)), sum(map(_size, entries))) for name in names}


def _entries(kind: str | None) -> list[Path]:
    root = cache_directory()
    folders = [root / kind] if kind else list(root.iterdir()) if root.exists() else []
    return [entry for folder in folders if folder.is_dir() for entry in sorted(folder.iterdir()) if entry.suffix != ".lock"]


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())


def digest_of(files: Iterable[Path], root: Path) -> str:
    """Of their names below ``root``, sizes and contents, in their order."""
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.relative_to(root)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _digest(file: Path) -> str:
    with file.open("rb") as data:
        return f"{file.stat().st_mode & 0o111:o} {hashlib.file_digest(data, 'sha256').hexdigest()}"


def _lock(directory: Path) -> FileLock:
    """Held while ``directory`` is filled. Its file stays: a removed lock would let two processes in."""
    return FileLock(f"{directory}.lock")


@contextmanager
def _unless_used(entry: Path) -> Iterator[bool]:
    """Holds the lock of the folder that ``entry`` is, or is to become; False when another process has it."""
    partial = PARTIAL.fullmatch(entry.name)
    lock = _lock(entry.with_name(partial[1]) if partial else entry)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _sweep(folder: Path) -> None:
    """Removes what nobody is filling any more."""
    for entry in folder.iterdir():
        if entry.is_dir() and PARTIAL.fullmatch(entry.name):
            failed = entry / FAILED
            if failed.exists() and time.time() - failed.stat().st_mtime < LOG_SECONDS:
                continue
            with _unless_used(entry) as free:
                if free:
                    shutil.rmtree(entry, ignore_errors=True)
