"""The tutorial: its cells print what it shows, and the notebook is the same page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from docs import notebook

PARTS = notebook.cells(notebook.PAGE.read_text())


def test_page_and_notebook_are_one() -> None:
    def drawn(cell: notebook.Cell) -> bytes:
        return (notebook.DOCS / notebook.file_of(cell)).read_bytes() if cell.picture else b""

    assert notebook.page_of(PARTS) == notebook.PAGE.read_text()
    parts = [replace(cell, png=drawn(cell)) for cell in PARTS]
    assert notebook.notebook_of(parts) == notebook.NOTEBOOK.read_text(), "run `make docs`"
    assert notebook.NOTEBOOK.stat().st_size < 200_000


@pytest.mark.parametrize("simulated", [pytest.param(False, marks=pytest.mark.slow), pytest.param(True, marks=pytest.mark.rtl)])
def test_cells_print_what_the_page_shows(simulated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, as a reader would."""
    monkeypatch.chdir(tmp_path)
    for cell in notebook.executed([cell for cell in PARTS if simulated or cell.tag != "rtl"]):
        shown = next(part for part in PARTS if part.source == cell.source)
        assert cell.text == shown.text, "run `make docs`"
        assert bool(cell.png) == bool(shown.picture)


def test_a_cell_is_code_with_its_output() -> None:
    page = "Some words.\n\n```python\nx = 1\nx + 1\n```\n\n```text\n3\n```\n\nMore.\n\n```python\nprint(x)\n```\n"
    parts = notebook.cells(page)
    assert [(cell.code, cell.text) for cell in parts] == [(False, ""), (True, "3\n"), (False, ""), (True, "")]
    assert [cell.text for cell in notebook.executed(parts)] == ["", "2\n", "", "1\n"]
    assert notebook.page_of(parts) == page
