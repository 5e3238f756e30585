"""What the study ``accuracy`` measures, and on what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compiler.frontend.masks import Masks
from sim.calibrate.rules import TEAL, WINA
from sim.calibrate.work import GREEDY, UNIFORM
from skipopu.policy import KvPolicy

SEED = 0
FP32 = "fp32"  # weights as they are: a bound, no format of the machine
PRODUCTS = "products"
SHIPPED, TURNED = "as trained", "turned"

# Ways to choose thresholds: a rule and how ratios are found. The first format meets all of them, the others the last.
Way = tuple[str, str]
WAYS: tuple[Way, ...] = ((TEAL, UNIFORM), (WINA, GREEDY))


@dataclass(frozen=True)
class Design:
    """How much is measured.

    Attributes:
        target: the machine whose bytes are counted.
        size: bytes of held-out text.
        window: tokens that are read at once, from nothing; half of them are a prompt where bytes are counted, the others decoded.
        samples: windows to calibrate on; the first ``judged`` of them choose between methods and set the dials.
        traces: windows of held-out text whose routing is timed.
        shares: of modules, that dials and random skipping are to execute.
        ranks: of low-rank corrections.
        masked: shares of the weights that masks of channels leave out.
    """

    target: str = "tiny"
    size: int = 32768
    window: int = 256
    samples: int = 64
    judged: int = 16
    traces: int = 2
    shares: tuple[float, ...] = (0.9, 0.8, 0.6)
    ranks: tuple[int, ...] = (4, 8, 16)
    masked: tuple[float, ...] = (0.25, 0.4, 0.5)
    workers: int | None = None


@dataclass(frozen=True)
class Policy:
    """Who skips: "routers" with a dial, "random", or "always", which is nobody; ``share`` of the modules are to be executed.

    ``share`` is None for the dial 0 that routers were trained with.
    """

    name: str
    kv: KvPolicy
    share: float | None = None

    @property
    def label(self) -> str:
        if self.name == "always":
            return "all executed"
        if self.share is None:
            return "routers as trained"
        return f"{'routers, dial for' if self.name == 'routers' else 'random,'} {self.share:.0%}"


@dataclass(frozen=True)
class Point:
    """One way to hold a model's weights under one way to skip.

    Attributes:
        form: SHIPPED or TURNED.
        format: of the weights; ``method``: that chose them.
        chosen: the method is the one that loses least on the calibration text, of those of its format.
        bits: per byte of held-out text.
        executed: share of modules.
        bytes: read for a decoded token, all of them; None where no machine holds the weights.
        dial: the routers'.
        masked: share of the weights that masks of channels were to leave out; ``masks``: how they were chosen; ``active``: the share of
            channels that they left.
        bought: what more bytes went into: PRODUCTS in 8 bits, or a correction whose factors are in this form; "" for nothing.
    """

    form: str
    format: str
    method: str
    policy: Policy
    bits: float
    executed: float
    bytes: float | None
    dial: float = 0.0
    chosen: bool = False
    bought: str = ""
    masked: float = 0.0
    masks: str = ""
    active: float = 1.0


@dataclass(frozen=True)
class Chosen:
    """Thresholds that were calibrated in a way, with everything executed or with the routers, for a share of the weights."""

    dense: bool
    way: Way
    share: float
    thresholds: Masks


@dataclass(frozen=True)
class Subject:
    """A model on its design; what a job gets."""

    model: Path
    design: Design
    form: str
    dials: tuple[tuple[Policy, float], ...] = ()
    masks: tuple[Chosen, ...] = ()
