"""``skipopu cache``."""

from __future__ import annotations

import argparse
from pathlib import Path

from skipopu.cache import cache_directory, clear, kinds
from skipopu.errors import SkipopuError
from skipopu.report import Record, write_json

SOURCE = "skipopu cache"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "The cache lies where SKIPOPU_CACHE says, else in the user's cache directory; all of it can be made again."
    parser.add_argument("--clear", nargs="?", const="", metavar="KIND", help="remove what is kept: of one kind, or all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the sizes as records")


def main(args: argparse.Namespace) -> int:
    if args.clear and args.clear not in kinds():
        raise SkipopuError(f"--clear is {args.clear!r}; the cache holds {', '.join(kinds()) or 'nothing'}")
    if args.clear is not None:
        freed, used = clear(args.clear or None)
        print(f"{freed / 1e6:,.1f} MB removed")
        for entry in used:
            print(f"{entry} is being built and was left")
    records = []
    print(cache_directory())
    for kind, (entries, size) in kinds().items():
        print(f"  {kind:<12} {entries:>5} entries {size / 1e6:>10,.1f} MB")
        records.append(Record(f"{kind}.entries", entries, "entry", "measured", SOURCE))
        records.append(Record(f"{kind}.bytes", size, "byte", "measured", SOURCE))
    if args.json:
        write_json(args.json, "cache", {"directory": cache_directory()}, records)
    return 0
