"""What is kept between runs, and what becomes of it when something goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from skipopu.cache import cache_directory, cache_entry, clear, fill_once, kinds
from skipopu.cli import main
from skipopu.errors import SkipopuError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SKIPOPU_CACHE", str(tmp_path / "a cache"))
    return tmp_path / "a cache"


def fill(directory: Path) -> list[int]:
    """Counts how often it is filled."""
    made: list[int] = []

    def make(work: Path) -> None:
        made.append(1)
        (work / "program").write_text("text")
        (work / "program").chmod(0o755)

    fill_once(directory, make)
    assert (directory / "program").read_text() == "text"
    return made


@pytest.mark.parametrize("damage", ["unlink", "truncate", "byte", "mode", "manifest", "empty"])
def test_what_was_damaged_is_made_again(cache: Path, damage: str) -> None:
    directory = cache_entry("kind", "x", "0")
    assert fill(directory) == [1]
    assert fill(directory) == []
    program = directory / "program"
    match damage:
        case "unlink":
            program.unlink()
        case "truncate":
            program.write_text("")
        case "byte":
            program.write_text("texT")
        case "mode":
            program.chmod(0o644)
        case "manifest":
            (directory / "complete.json").write_text("[")
        case "empty":
            for file in directory.iterdir():
                file.unlink()
    assert fill(directory) == [1]


def test_any_name_makes_one_folder(cache: Path) -> None:
    for name in ("a machine", "a/b", "../up", "", "x" * 300, "a.12"):
        directory = cache_entry("kind", name, "0123")
        assert directory.parent == cache / "kind"
        assert fill(directory) == [1]


def test_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("SKIPOPU_CACHE", "")
    assert cache_directory() == tmp_path / "skipopu"
    monkeypatch.setenv("SKIPOPU_CACHE", f"relative{os.getpid()}")
    monkeypatch.chdir(tmp_path)
    first = cache_directory()
    monkeypatch.chdir("/")
    assert first == cache_directory() == tmp_path / f"relative{os.getpid()}"


def test_an_unusable_cache_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none")):
        monkeypatch.setenv("SKIPOPU_CACHE", str(path))
        with pytest.raises(SkipopuError, match="SKIPOPU_CACHE"):
            fill(cache_entry("kind", "x", "0"))
        with pytest.raises(SkipopuError, match="SKIPOPU_CACHE"):
            fill(cache_directory() / "kind" / "x")


KILLED = """
import sys, time
from skipopu.cache import cache_entry, fill_once
fill_once(cache_entry("kind", "killed", "0"), lambda work: (print(work, flush=True), time.sleep(60)))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_what_a_killed_build_left_goes_with_the_next(cache: Path, how: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        fill(cache_entry("kind", "other", "0"))
        assert left.is_dir()  # it is alive
        process.send_signal(how)
        process.communicate()
    assert left.exists() == (how == signal.SIGKILL)
    fill(cache_entry("kind", "another", "0"))
    assert not left.exists()


def test_the_log_of_a_failed_build_stays_for_a_day(cache: Path) -> None:
    directory = cache_entry("kind", "x", "0")

    def make(work: Path) -> None:
        (work / "build.log").write_text("why")
        raise SkipopuError(f"see {work / 'build.log'}")

    with pytest.raises(SkipopuError) as error:
        fill_once(directory, make)
    log = Path(str(error.value).removeprefix("see "))
    fill(cache_entry("kind", "other", "0"))
    assert log.read_text() == "why"
    day_ago = time.time() - 90_000
    os.utime(log.parent / "failed", (day_ago, day_ago))
    fill(cache_entry("kind", "another", "0"))
    assert not log.exists()


def test_clearing_leaves_what_is_being_built(cache: Path) -> None:
    kept, gone = cache_entry("kind", "kept", "0"), cache_entry("kind", "gone", "0")
    fill(kept)
    fill(gone)
    fill(cache_entry("other", "x", "0"))
    assert {name: entries for name, (entries, _) in kinds().items()} == {"kind": 2, "other": 1}
    with FileLock(f"{kept}.lock"):
        freed, used = clear("kind")
    assert freed > 4
    assert used == [kept]
    assert not gone.exists()
    assert clear()[1] == []
    assert sum(entries for entries, _ in kinds().values()) == 0


def test_command(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache"]) == 0
    assert str(cache) in capsys.readouterr().out
    fill(cache_entry("rtl", "x", "0"))
    file = cache.parent / "cache.json"
    assert main(["cache", "--json", str(file)]) == 0
    records = json.loads(file.read_text())["records"]
    assert {r["name"]: r["value"] for r in records}["rtl.entries"] == 1
    assert main(["cache", "--clear", "rtx"]) == 2
    assert "rtl" in capsys.readouterr().err
    assert main(["cache", "--clear", "rtl"]) == 0
    assert kinds()["rtl"] == (0, 0)
    assert main(["cache", "--clear"]) == 0


def test_an_entry_that_begins_as_a_copy_of_another_is_made_once(cache: Path) -> None:
    first, second = cache_entry("kind", "first", "0" * 20), cache_entry("kind", "second", "1" * 20)
    fill(first)
    made: list[int] = []

    def make(work: Path) -> None:
        made.append(1)
        shutil.copytree(first, work, dirs_exist_ok=True)
        (work / "more").write_text("more")

    for _ in range(2):
        fill_once(second, make)
    assert made == [1]
