"""What commands say on a terminal, and in a log."""

from __future__ import annotations

import time

import pytest

from skipopu import terminal


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "PAUSE", 0.01)


def until_said(text: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Lines in a log up to one with ``text``, without the times that passed."""
    lines, deadline = list[str](), time.monotonic() + 30
    while text not in lines:
        assert time.monotonic() < deadline, lines
        seen = capsys.readouterr()
        assert seen.out == ""
        lines += [line.rpartition(", ")[0] for line in seen.err.splitlines()]
    return lines


@pytest.mark.usefixtures("quick")
def test_long_work_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines in place of bars; nothing in square brackets is markup."""
    with terminal.Following() as progress:
        assert set(until_said("going on", capsys)) == {"going on"}
        task = progress.add_task("[layer] :one:", total=3)
        until_said("[layer] :one:: 0 of 3", capsys)
        progress.update(task, completed=2)
        until_said("[layer] :one:: 2 of 3", capsys)
    with terminal.doing("[study]") as say:
        until_said("[study]", capsys)
        say("[table] of it")
        until_said("[table] of it", capsys)


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.Following() as progress, terminal.doing("study") as say:
        progress.advance(progress.add_task("layer", total=1))
        say("table")
    assert capsys.readouterr().err == ""
