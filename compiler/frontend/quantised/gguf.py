"""GGUF, as llama.cpp writes it: floating-point numbers, or blocks of 32 with an FP16 scale (Q4_0, Q8_0).

For ``llama`` its rows of Q and K stand in another order: pairs that are rotated together are neighbours.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.quantised.packed import Grouped, Packed, grouped
from compiler.frontend.tensors import F32, Codes, FileTensors, Held, Shape
from skipopu.errors import CheckpointError
from skipopu.gguf_file import BLOCKS, FREQUENCIES, TYPES, GgufFile
from skipopu.numerics.formats import INT4, INT8

MODULES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NAME = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")
_BYTES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_FIELDS = {"Q4_0": 16, "Q8_0": 32}  # bytes of a block behind its scale


class GgufTensors(FileTensors):
    """A file's tensors under transformers' names; ``files`` has the file of each.

    Raises:
        CheckpointError: naming the file, and the tensor of a kind or name that is not known.
    """

    def __init__(self, file: GgufFile) -> None:
        self.file, self.held = file, {}
        for name, held in file.tensors.items():
            if name == FREQUENCIES:
                continue
            if held.kind not in TYPES:
                raise CheckpointError(f"{file.path}: tensor {name} holds {held.kind}; accepted: {', '.join(TYPES)}")
            match = _NAME.fullmatch(name)
            module = MODULES.get(match[2]) if match else None
            layer = f"model.layers.{match[1]}." if match and match[1] else ""
            own = f"{layer}{module}.{match[3]}" if match and module else name
            if own in self.held:
                raise CheckpointError(f"{file.path}: tensor {name} is {own}, of which there is another one")
            self.held[own] = held
        self.packed = {
            name: _packed(file.path, held.kind, held.shape, held.offset)
            for name, held in self.held.items()
            if held.kind in BLOCKS
        }
        super().__init__({name: held.shape for name, held in self.held.items()}, self._tensor, self._codes)
        self.files = dict.fromkeys(self.shapes, file.path)

    def _place(self, name: str, rows: slice) -> tuple[slice, slice | NDArray[np.int64]]:
        """A slice of the file's rows that has all of ``rows``, and these in it."""
        match = re.search(r"self_attn\.([qk])_proj\.(?:weight|bias)$", name)
        if match is None or self.file.config["model_type"] != "llama":
            return rows, slice(None)
        head, total = self.file.config["head_dim"], self.shapes[name][0]
        if total % head or head % 2:
            raise CheckpointError(f"{self.file.path}: tensor {name} has {total} rows; accepted: heads of {head}")
        wanted = np.arange(total).reshape(-1, head // 2, 2).transpose(0, 2, 1).reshape(-1)[rows]
        if not len(wanted):
            return slice(0, 0), wanted
        return slice(int(wanted.min()), int(wanted.max()) + 1), wanted - wanted.min()

    def _tensor(self, name: str, rows: slice) -> F32:
        around, within = self._place(name, rows)
        if name in self.packed:
            return self.packed[name].read(around)[within]
        held = self.held[name]
        found = np.memmap(self.file.path, _BYTES[held.kind], "r", held.offset, held.shape)[around][within]
        if held.kind == "BF16":
            return (found.astype(np.uint32) << 16).view(np.float32)
        return found.astype(np.float32)

    def _codes(self, name: str, rows: slice) -> Held:
        if name not in self.packed:
            return None
        around, within = self._place(name, rows)
        found = self.packed[name].codes(around)
        return found[within] if isinstance(found, Codes) else found


def _packed(path: Path, kind: str, shape: Shape, offset: int) -> Packed:
    """A matrix of blocks: an FP16 scale, then 32 integers in bytes, or in nibbles, less 8, the first 16 of them in lower ones."""
    size, stored = BLOCKS[kind], 2 + _FIELDS[kind]

    def rows_of(first: int, end: int) -> Grouped:
        table: NDArray[Any] = np.memmap(path, np.uint8, "r", offset, (shape[0], shape[1] // size, stored))[first:end]
        scales = table[..., :2].copy().view("<f2")[..., 0].astype(np.float32)
        octets = table[..., 2:]
        if kind == "Q8_0":
            numbers = octets.astype(np.uint8).view(np.int8).astype(np.int16)
        else:
            numbers = np.concatenate([octets & 15, octets >> 4], -1).astype(np.int16) - np.int16(8)
        return Grouped(numbers.reshape(end - first, shape[1]), scales)

    return grouped(shape, (), rows_of, size, INT8 if kind == "Q8_0" else INT4)
