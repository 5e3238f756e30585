"""What commands say on a terminal, and in a log."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator

import pytest

from skipopu import terminal

STAYS = 0.3  # seconds in which many lines would come


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lines come at once, in what is a log whatever the environment says; none comes when the test is over."""
    monkeypatch.setattr(terminal, "PAUSE", 0.01)
    monkeypatch.setattr(terminal.console, "_force_terminal", False)
    yield
    told = io.StringIO()
    monkeypatch.setattr(sys, "stderr", told)
    time.sleep(STAYS)
    assert told.getvalue() == ""


def until_said(text: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Lines in a log up to one with ``text``, without the times that passed."""
    lines, deadline = list[str](), time.monotonic() + 30
    while text not in lines:
        assert time.monotonic() < deadline, lines
        time.sleep(0.01)
        seen = capsys.readouterr()
        assert seen.out == ""
        lines += [line.rpartition(", ")[0] for line in seen.err.splitlines()]
    return lines


@pytest.mark.usefixtures("quick")
def test_long_work_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines in place of bars; nothing in square brackets is markup."""
    with terminal.Following() as progress:
        assert set(until_said("going on", capsys)) == {"going on"}
        task = progress.add_task("[layer] :one:", total=3_000_000)
        until_said("[layer] :one:: 0 of 3,000,000", capsys)
        progress.update(task, completed=1_234_567)
        until_said("[layer] :one:: 1,234,567 of 3,000,000", capsys)
        progress.update(task, description="[next]")
        until_said("[next]: 1,234,567 of 3,000,000", capsys)
    with terminal.doing("[study]") as say:
        until_said("[study]", capsys)
        say("[table] of it")
        until_said("[table] of it", capsys)
    with pytest.raises(ValueError, match="bad"), terminal.doing("what fails"):
        raise ValueError("bad")


@pytest.mark.usefixtures("quick")
def test_what_goes_by_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Whether all of it is taken, some or nothing."""
    with terminal.Following() as progress:
        for item in progress.follow("layers", "abc"):
            until_said(f"layers: {'abc'.index(item)} of 3", capsys)
        next(taken := progress.follow("passes", "ab"))
        until_said("passes: 0 of 2", capsys)
        taken.close()
        assert list(progress.follow("none", "")) == []
        until_said("going on", capsys)
    with progress:  # again
        until_said("going on", capsys)


@pytest.mark.usefixtures("quick")
def test_a_log_that_nobody_reads_ends_nothing(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    class Gone(io.StringIO):
        wrote = False

        def write(self, text: str) -> int:
            self.wrote = True
            raise BrokenPipeError

    with terminal.doing("study"), monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", gone := Gone())
        deadline = time.monotonic() + 30
        while not gone.wrote and time.monotonic() < deadline:
            time.sleep(0.01)
    print("the result")
    assert gone.wrote
    assert "the result" in capfd.readouterr().out


def test_short_work_says_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(terminal.console, "_force_terminal", False)
    with terminal.Following() as progress, terminal.doing("study") as say:
        progress.advance(progress.add_task("layer", total=1))
        say("table")
    assert capsys.readouterr().err == ""
