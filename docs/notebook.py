"""Runs the tutorial: its outputs and pictures are written back into the page, and page and outputs become the notebook.

``python -m docs.notebook`` (or ``make docs``) after a change. In the page a fence ``python`` is a cell; what follows it at once,
a fence ``text`` or a picture, is its output. ``python rtl`` builds a simulation.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sim.picture import Picture

DOCS = Path(__file__).parent
PAGE, NOTEBOOK = DOCS / "tutorial.md", DOCS / "tutorial.ipynb"
CELL = re.compile(
    r"^```python(?P<tag> \w+)?\n(?P<code>.*?)^```\n(?:\n```text\n(?P<text>.*?)^```\n|\n(?P<picture>!\[.*?\]\(.*?\))\n)?",
    re.M | re.S,
)


@dataclass(frozen=True)
class Cell:
    """A piece of the page: Markdown, or code with what it printed and the picture (Markdown, PNG) that it drew."""

    source: str
    code: bool = False
    tag: str = ""
    text: str = ""
    picture: str = ""
    png: bytes = b""


def cells(page: str) -> list[Cell]:
    """The page's pieces, in order."""
    found, end = [], 0
    for match in CELL.finditer(page):
        found.append(Cell(page[end : match.start()].strip("\n")))
        tag, text, picture = ((match[name] or "") for name in ("tag", "text", "picture"))
        found.append(Cell(match["code"], True, tag.strip(), text, picture))
        end = match.end()
    return [cell for cell in (*found, Cell(page[end:].strip("\n"))) if cell.source]


def executed(parts: list[Cell]) -> Iterator[Cell]:
    """The cells with what they print and draw now, all in one namespace; the last expression's value counts as printed."""
    names: dict[str, Any] = {}
    for cell in parts:
        if not cell.code:
            yield cell
            continue
        statements = ast.parse(cell.source).body
        last = statements[-1]
        code: list[ast.stmt] = statements[:-1] if isinstance(last, ast.Expr) else statements
        printed, value = io.StringIO(), None
        with contextlib.redirect_stdout(printed):
            exec(compile(ast.Module(code, []), PAGE.name, "exec"), names)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), PAGE.name, "eval"), names)
            png = value.png() if isinstance(value, Picture) else b""
            if value is not None and not png:
                print(repr(value))
        yield replace(cell, text=printed.getvalue(), png=png)


def page_of(parts: list[Cell]) -> str:
    """The page: what :func:`cells` reads."""

    def piece(cell: Cell) -> str:
        if not cell.code:
            return f"{cell.source}\n"
        code = f"```python{cell.tag and ' ' + cell.tag}\n{cell.source}```\n"
        return code + (f"\n```text\n{cell.text}```\n" if cell.text else f"\n{cell.picture}\n" if cell.picture else "")

    return "\n".join(map(piece, parts))


def notebook_of(parts: list[Cell]) -> str:
    """The same as a Jupyter notebook (format 4.5)."""
    made, count = [], 0
    for number, cell in enumerate(parts):
        made.append(
            {
                "cell_type": "code" if cell.code else "markdown",
                "id": f"cell-{number}",
                "metadata": {},
                "source": cell.source.rstrip("\n").splitlines(keepends=True),
            }
        )
        if not cell.code:
            continue
        count += 1
        outputs: list[dict[str, Any]] = []
        if cell.text:
            outputs.append({"output_type": "stream", "name": "stdout", "text": cell.text.splitlines(keepends=True)})
        if cell.png:
            data = {"image/png": base64.b64encode(cell.png).decode(), "text/plain": ["a picture"]}
            outputs.append({"output_type": "display_data", "data": data, "metadata": {}})
        made[-1] |= {"execution_count": count, "outputs": outputs}
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return json.dumps({"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n"


def file_of(cell: Cell) -> str:
    """The name of a picture's file."""
    return cell.picture.rpartition("(")[2].rstrip(")")


def main() -> None:
    parts = list(executed(cells(PAGE.read_text())))
    PAGE.write_text(page_of(parts))
    NOTEBOOK.write_text(notebook_of(parts))
    for cell in parts:
        if cell.png:
            (DOCS / file_of(cell)).write_bytes(cell.png)


if __name__ == "__main__":
    main()
