"""``python -m tests.formal`` proves everything and writes the table of docs/formal.md anew; ``--markdown`` only prints it."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from tests.formal.laws import Claim, Unit
from tests.formal.prove import outcomes
from tests.formal.units import UNITS

PAGE = Path(__file__).parents[2] / "docs" / "formal.md"
BLOCK = re.compile(r"(?<=<!-- claims -->\n)(.*?)(?=<!-- end -->)", re.DOTALL)
HEAD = "| Claim | Method | Cycles | Seconds |\n|---|---|---|---:|\n"


def heading(unit: Unit) -> str:
    """Of a unit's table."""
    return f"\n`{unit.path}`, {unit.of}:\n\n{HEAD}"


def row(claim: Claim, cycle: int = 0) -> str:
    """A line of the table without its seconds; ``cycle``: the first one of an example, where that is known."""
    if claim.reached:
        of = f" of the first {claim.within}" if claim.within else ""
        return f"| {claim.text} | example | {cycle or 'some'}{of} "
    return f"| {claim.text} | bounded | first {claim.bound} " if claim.bound else f"| {claim.text} | induction | all "


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.formal", description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="print the table, leave the page alone")
    arguments = parser.parse_args()
    text, wrong = "", 0
    for unit in UNITS:
        text += heading(unit)
        with tempfile.TemporaryDirectory() as directory:
            for outcome in outcomes(unit.build(), Path(directory)):
                text += f"{row(outcome.claim, outcome.cycle)}| {outcome.seconds:.1f} |\n"
                if not outcome.holds:
                    wrong += 1
                    print(f"{unit.path}: {outcome.claim.text}: {outcome.said}", file=sys.stderr)
    if arguments.markdown:
        print(text, end="")
    elif not wrong:
        PAGE.write_text(BLOCK.sub(lambda match: f"{text}\n", PAGE.read_text()))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
