"""Generated pages are up to date, the layout follows the import rules, and the README's commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sim.compare import pages
from skipopu.cli import COMMANDS
from skipopu.isa.doc import markdown as isa_page
from skipopu.machine.doc import markdown as machine_page
from skipopu.numerics.doc import markdown as numerics_page

ROOT = Path(__file__).parents[2]


def test_isa_page() -> None:
    assert (ROOT / "docs" / "isa.md").read_text() == isa_page(), "run `make docs`"


def test_machine_page() -> None:
    assert (ROOT / "docs" / "machine.md").read_text() == machine_page(), "run `make docs`"


def test_numerics_page() -> None:
    assert (ROOT / "docs" / "numerics.md").read_text() == numerics_page(), "run `make docs`"


@pytest.mark.parametrize("page", pages.PAGES)
def test_pages_repeat_the_records(page: str) -> None:
    text = (ROOT / page).read_text()
    assert pages.BLOCK.search(text), "the page lost its blocks"
    assert text == pages.current(text), "run `python -m sim.compare.pages`"


def test_every_block_has_a_page() -> None:
    held = {match[2] for page in pages.PAGES for match in pages.BLOCK.finditer((ROOT / page).read_text())}
    assert held == set(pages.BLOCKS)


def test_readme_commands_exist() -> None:
    text = (ROOT / "README.md").read_text()
    assert "make demo" in text
    assert "make test" in text
    used = set(re.findall(r"^(?:\.venv/bin/)?skipopu (\w+)", text, re.M))
    assert used
    assert used <= set(COMMANDS)


def test_documents_name_real_files() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for path in re.findall(r"`((?:hw|sim|compiler|skipopu|models|tests)/[\w/.-]+)`", page.read_text()):
            assert (ROOT / path).exists() or "NAME" in path, f"{page.name} names {path}"


def test_index_and_links_are_complete() -> None:
    """Every page stands in docs/README.md, and no link between pages leads nowhere."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links {link}"
    index = (ROOT / "docs" / "README.md").read_text()
    for page in pages[2:]:
        assert page.name == "README.md" or f"({page.relative_to(ROOT / 'docs')})" in index, page


def test_readme_python_runs() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    exec(compile(code, "README.md", "exec"), {})
