"""An FPGA overlay processor for language models with dynamic skipping: ``import skipopu as sk``.

::

    program = sk.compile("pybyte-1m", target="tiny")
    result = sk.run(program, "def read(self", max_new=32)
    print(bytes(result.tokens).decode(), result.executed_share)

What the modules of this package hold is the contract: instructions, numerics, machine descriptions, programs and records, which need
Python and NumPy only. The compiler, the hardware generator and the simulators meet in the data that it defines. The names offered
here are imported when first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# module -> what it offers here
OFFERED = {
    "sim.api": ("target", "checkpoint", "shape", "compile", "quantise", "verilog"),
    "sim.api_masks": ("calibrate",),
    "sim.api_runs": ("run", "check", "compare", "timeline"),
    "skipopu.machine.config": ("Machine",),
    "compiler.frontend.checkpoint": ("Checkpoint",),
    "skipopu.program.program": ("Program",),
    "skipopu.program.run": ("Run",),
    "skipopu.program.listing": ("listing",),
    "sim.conversation": ("Conversation", "Turn"),
    "sim.session": ("Session",),
    "skipopu.sampling": ("Sampling",),
    "skipopu.lookup": ("Lookup",),
    "sim.result": ("Result", "Routed", "Computed", "Timed", "Counted"),
    "sim.engine": ("Watch",),
    "sim.timeline": ("Span",),
    "sim.rtl.options": ("Memory",),
    "sim.rtl.window": ("Window",),
    "sim.check": ("Check",),
    "sim.compare.comparison": ("Comparison",),
    "sim.quantise.work": ("Quantisation",),
    "sim.calibrate.work": ("Calibration",),
    "skipopu.errors": ("SkipopuError", "ConfigError", "CheckpointError", "ProgramError", "MachineHalt"),
}
_HOME = {name: module for module, names in OFFERED.items() for name in names}

if TYPE_CHECKING:
    from compiler.frontend.checkpoint import Checkpoint as Checkpoint
    from sim.api import checkpoint as checkpoint
    from sim.api import compile as compile
    from sim.api import quantise as quantise
    from sim.api import shape as shape
    from sim.api import target as target
    from sim.api import verilog as verilog
    from sim.api_masks import calibrate as calibrate
    from sim.api_runs import check as check
    from sim.api_runs import compare as compare
    from sim.api_runs import run as run
    from sim.api_runs import timeline as timeline
    from sim.calibrate.work import Calibration as Calibration
    from sim.check import Check as Check
    from sim.compare.comparison import Comparison as Comparison
    from sim.conversation import Conversation as Conversation
    from sim.conversation import Turn as Turn
    from sim.engine import Watch as Watch
    from sim.quantise.work import Quantisation as Quantisation
    from sim.result import Computed as Computed
    from sim.result import Counted as Counted
    from sim.result import Result as Result
    from sim.result import Routed as Routed
    from sim.result import Timed as Timed
    from sim.rtl.options import Memory as Memory
    from sim.rtl.window import Window as Window
    from sim.session import Session as Session
    from sim.timeline import Span as Span
    from skipopu.errors import CheckpointError as CheckpointError
    from skipopu.errors import ConfigError as ConfigError
    from skipopu.errors import MachineHalt as MachineHalt
    from skipopu.errors import ProgramError as ProgramError
    from skipopu.errors import SkipopuError as SkipopuError
    from skipopu.lookup import Lookup as Lookup
    from skipopu.machine.config import Machine as Machine
    from skipopu.program.listing import listing as listing
    from skipopu.program.program import Program as Program
    from skipopu.program.run import Run as Run
    from skipopu.sampling import Sampling as Sampling


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({"__version__", *_HOME})
