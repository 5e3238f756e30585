"""What commands say on a terminal, and in a log."""

from __future__ import annotations

import pytest

from skipopu import terminal


@pytest.mark.parametrize(("pause", "lines"), [(0, 3), (1000, 0)])
def test_long_work_in_a_log(
    pause: int, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line where nothing was said for a while, and no bars."""
    monkeypatch.setattr(terminal, "PAUSE", pause)
    with terminal.Following() as progress:
        task = progress.add_task("[layer] :one:", total=3)
        progress.advance(task)
        progress.update(task, completed=2)
        progress.update(task, advance=1)
    seen = capsys.readouterr()
    assert seen.out == ""
    assert [line.partition(", ")[0] for line in seen.err.splitlines()] == [
        f"[layer] :one:: {done} of 3" for done in range(1, 4)[:lines]
    ]
