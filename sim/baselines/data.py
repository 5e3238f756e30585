"""Baselines: published figures of GPUs and FPGAs, records measured on a GPU, and what a GPU's data sheet allows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError

from skipopu.errors import SkipopuError

HERE = Path(__file__).parent
MEASURED = HERE / "measured"


class BaselineError(SkipopuError):
    """A file of baselines does not hold what it should."""


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Gpu(_Data):
    """Data sheet of one GPU: GB/s, dense FP16 TFLOP/s, GB, board power in W."""

    peak_gb_s: PositiveFloat
    fp16_tflops: PositiveFloat
    memory_gb: PositiveFloat
    power_w: PositiveFloat
    source: str

    def decode_roof(self, size: float) -> float:
        """Tokens per second when nothing but ``size`` bytes per token limits them, at the full peak."""
        return self.peak_gb_s * 1e9 / size

    def prefill_floor(self, products: int) -> float:
        """Seconds of ``products`` multiplications and additions at the full FP16 peak."""
        return 2 * products / (self.fp16_tflops * 1e12)


class GpuRow(_Data):
    """A published decoding rate, every module executed; a range has a ``_high`` end.

    Attributes:
        context: what the source says of it.
        bits: of a stored weight of the layers' matrices, with its share of scales and zero points; None where a pass over the
            weights is not a token. head_bits: of the head, None: the same.
        read_gb_s: the bandwidth that the source itself states.
        power_w: the limit that was set, where the source states one.
    """

    gpu: str
    stack: str
    model: str
    precision: str
    context: str | None = None
    tokens_per_s: PositiveFloat
    tokens_per_s_high: PositiveFloat | None = None
    bits: PositiveFloat | None = None
    head_bits: PositiveFloat | None = None
    read_gb_s: PositiveFloat | None = None
    power_w: PositiveFloat | None = None
    source: str


class GpuFile(_Data):
    gpus: dict[str, Gpu]
    rows: list[GpuRow]


class FpgaRow(_Data):
    """Another FPGA system's published figures; ``share`` is by its own formula, ``bits`` are of a stored weight."""

    system: str
    device: str | None = None
    model: str | None = None
    format: str
    skip: float = Field(default=0.0, ge=0, lt=1)
    tokens_per_s: PositiveFloat | None = None
    tokens_per_s_high: PositiveFloat | None = None
    share: float | None = Field(default=None, gt=0, le=1)
    share_high: float | None = Field(default=None, gt=0, le=1)
    bits: PositiveFloat | None = None
    peak_gb_s: PositiveFloat | None = None
    power_w: PositiveFloat | None = None
    tokens_per_j: PositiveFloat | None = None
    source: str


class Paper(_Data):
    """What the SkipOPU paper publishes of its own machine; ``kv_gb_s`` and ``attention_speed_up`` by its names of the variants."""

    source: str
    peak_gb_s: PositiveFloat
    context: str
    skip: float
    tokens_per_s: dict[str, float]
    weights: str
    efficiency: dict[str, float]
    kv_saved: float
    dense_read_gb_s: PositiveFloat
    kv_gb_s: dict[str, PositiveFloat]
    attention_speed_up: dict[str, PositiveFloat]
    dot_error: PositiveFloat


class Reads(_Data):
    """Published reads of a memory: GB/s of one AXI master by pattern and bytes per transaction, all channels', shares of DDR4's peak."""

    source: str
    clock_mhz: PositiveFloat
    issue: int
    sizes: tuple[int, ...]
    patterns: dict[str, tuple[PositiveFloat, ...]]
    every_channel_gb_s: PositiveFloat
    ddr4_share: PositiveFloat
    ddr4_best_share: tuple[float, float]


class FpgaFile(_Data):
    paper: Paper
    reads: Reads
    rows: list[FpgaRow]


class MeasuredFigure(BaseModel):
    """A record as ``--json`` files hold it; see :class:`skipopu.report.Record`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    value: float
    unit: str
    kind: Literal["measured", "derived"]
    source: str
    system: str
    model: str
    precision: str
    context: str
    stack: str = ""
    skip: float = 0.0
    masked: float | None = None
    kv: Literal["dense", "reuse"] | None = None
    phase: str | None = None


class MeasuredFile(BaseModel):
    """What a measurement on one GPU left; ``inputs`` has at least the GPU's name and the copy bandwidth of the same run."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    command: str
    version: str
    inputs: dict[str, Any]
    records: list[MeasuredFigure]


Model = TypeVar("Model", bound=BaseModel)


def checked(model: type[Model], value: Any, path: Path) -> Model:
    """``value`` as ``model``; raises BaselineError naming the file, the field and what is wrong with it."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BaselineError(f"{path}: {where}: {first['msg']}, found {first['input']!r}") from None


@lru_cache
def gpus() -> GpuFile:
    """GPUs and their published rows; every row's GPU is known."""
    path = HERE / "gpus.yaml"
    file = checked(GpuFile, yaml.safe_load(path.read_text()), path)
    if unknown := [row.gpu for row in file.rows if row.gpu not in file.gpus]:
        raise BaselineError(f"{path}: rows: gpu {unknown[0]!r} is not among gpus: {', '.join(file.gpus)}")
    return file


@lru_cache
def fpgas() -> FpgaFile:
    """The paper's figures and other FPGA systems'."""
    path = HERE / "fpgas.yaml"
    return checked(FpgaFile, yaml.safe_load(path.read_text()), path)


def read_measured(path: Path) -> MeasuredFile:
    """One file of measured records.

    Raises:
        BaselineError: not JSON, or a field is missing or wrong, by name.
    """
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BaselineError(f"{path}: not a readable JSON file ({error})") from None
    return checked(MeasuredFile, value, path)


def measured(more: Sequence[Path] = ()) -> list[MeasuredFile]:
    """Records shipped in ``sim/baselines/measured``, and ``more``."""
    return [read_measured(path) for path in (*sorted(MEASURED.glob("*.json")), *more)]
