"""Files as other tools publish their layouts, written here field by field, and what their numbers stand for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from compiler.frontend.files import SafeTensors
from compiler.frontend.quantised import unpack

Tensors = dict[str, torch.Tensor]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # field k of a word holds row AWQ_ORDER[k] of its eight


def words(fields: NDArray[Any], bits: int) -> torch.Tensor:
    """(rows, k) unsigned fields as (rows, k * bits / 32 rounded up) int32, the first one lowest."""
    per = 32 // bits
    padded = np.zeros((len(fields), fields.shape[1] + -fields.shape[1] % per), np.int64)
    padded[:, : fields.shape[1]] = fields
    total = np.zeros((len(fields), padded.shape[1] // per), np.int64)
    for lane in range(per):
        total += padded[:, lane::per] << bits * lane
    return torch.from_numpy(np.where(total >= 1 << 31, total - (1 << 32), total).astype(np.int32))


@dataclass(frozen=True)
class Quantised:
    """A matrix (rows, n) as unsigned fields, zero points and FP16 scales (rows, groups); ``order`` (n,) is the group of each column."""

    fields: NDArray[np.int64]
    zeros: NDArray[np.int64]
    scales: NDArray[np.float16]
    order: NDArray[np.int64]
    bits: int

    def values(self) -> NDArray[np.float32]:
        """What it stands for: one number at a time."""
        rows, n = self.fields.shape
        result = np.zeros((rows, n), np.float32)
        for column, group in enumerate(self.order):
            for row in range(rows):
                integer = int(self.fields[row, column]) - int(self.zeros[row, group])
                result[row, column] = np.float32(integer) * np.float32(self.scales[row, group])
        return result

    def gptq(self, base: str, v2: bool = False, index: bool = True) -> Tensors:
        stored = self.zeros if v2 else self.zeros - 1
        result = {
            "qweight": words(self.fields, self.bits).T,
            "qzeros": words(stored.T, self.bits),
            "scales": torch.from_numpy(self.scales.T.copy()),
            "g_idx": torch.from_numpy(self.order.astype(np.int32)),
        }
        return {base + part: tensor for part, tensor in result.items() if index or part != "g_idx"}

    def awq(self, base: str) -> Tensors:
        def packed(table: NDArray[np.int64]) -> torch.Tensor:
            """(k, rows) with rows eight to a word."""
            return words(table.reshape(len(table), -1, 8)[..., AWQ_ORDER].reshape(len(table), -1), 4)

        result = {"qweight": packed(self.fields.T), "qzeros": packed(self.zeros.T)}
        return {base + part: t for part, t in (result | {"scales": torch.from_numpy(self.scales.T.copy())}).items()}

    def compressed(self, base: str, symmetric: bool) -> Tensors:
        """pack-quantized: the fields are signed integers and 2^(bits - 1)."""
        result = {
            "weight_packed": words(self.fields, self.bits),
            "weight_scale": torch.from_numpy(self.scales),
            "weight_shape": torch.tensor(self.fields.shape),
        }
        if not symmetric:
            result["weight_zero_point"] = words(self.zeros.T, self.bits).T
        if not (np.diff(self.order) >= 0).all():
            result["weight_g_idx"] = torch.from_numpy(self.order.astype(np.int32))
        return {base + part: tensor for part, tensor in result.items()}

    def permuted(self, random: np.random.Generator) -> Quantised:
        """The same with columns of one scale far apart."""
        return replace(self, order=random.permutation(self.order))


def drawn(rows: int, n: int, bits: int, group: int, symmetric: bool, seed: int = 0, least: int = 1) -> Quantised:
    """Random fields, zero points from ``least`` on, and scales."""
    random, size = np.random.default_rng(seed), n if group == -1 else group
    groups = n // size
    middle = 1 << bits - 1
    zeros = random.integers(least, 1 << bits, (rows, groups)) if not symmetric else np.full((rows, groups), middle)
    scales = (random.uniform(0.01, 0.1, (rows, groups))).astype(np.float16)
    return Quantised(random.integers(0, 1 << bits, (rows, n)), zeros, scales, np.arange(n) // size, bits)


def opened(directory: Path, tensors: Mapping[str, torch.Tensor], config: dict[str, Any]) -> SafeTensors:
    """The plain tensors of a file that holds ``tensors``, by a ``quantization_config``."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors")
    return SafeTensors([directory / "model.safetensors"], (), unpack(config, "quantization_config"))


def parts(rows: int) -> Iterator[slice]:
    """Slices that begin and end between words."""
    return iter([slice(None), slice(0, 1), slice(3, rows - 2), slice(rows - 1, rows), slice(5, 5), slice(1, rows + 9)])
