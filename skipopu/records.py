"""Records in port 0's memory: what ROUTE reads of a layer, what check mode writes of an instruction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skipopu.isa.fields import Field, Record
from skipopu.isa.spec import ADDRESS_UNIT
from skipopu.policy import POLICY_BITS, Module, Pair, Phase, Phases, policy_of

U8 = NDArray[np.uint8]

# One per layer, in port 0. Biases are FP32 bit patterns, of the difference of a router's two outputs.
ROUTER_RECORD = Record(
    "router record",
    ADDRESS_UNIT,
    (
        Field("bias_attention", 32, "added to the attention router's product"),
        Field("bias_ffn", 32, "added to the feed-forward router's product"),
        Field("policy_attention", POLICY_BITS, "who decides about attention of tokens of the prompt"),
        Field("policy_ffn", POLICY_BITS, "who decides about the feed-forward network of tokens of the prompt"),
        Field("window", 24, "tokens that a query of the layer sees, itself among them; 0: all"),
        Field("window_next", 24, "that of the layer behind it, of the first behind the last"),
        Field("policy_attention_decode", POLICY_BITS, "who decides about attention of generated tokens"),
        Field("policy_ffn_decode", POLICY_BITS, "who decides about the feed-forward network of generated tokens"),
    ),
)
ROUTER_RECORD_READ = 1 << (-(-ROUTER_RECORD.used_bits // 8) - 1).bit_length()  # bytes that ROUTE reads


def policy_field(module: Module, phase: Phase) -> str:
    """The field of a router record that says who decides about ``module`` in ``phase``."""
    return f"policy_{module.name.lower()}{'_decode' if phase is Phase.DECODE else ''}"


def pack_router_record(bias: Sequence[float], policies: Phases, windows: Sequence[int] = (0, 0)) -> U8:
    """A layer's router record from the FP32 biases of attention and FFN, its policies, the windows of it and of the next layer."""
    attention, ffn = np.array(bias, np.float32).view(np.uint32).tolist()
    codes = {policy_field(module, phase): policies[phase][module].code for module in Module for phase in Phase}
    return ROUTER_RECORD.pack(bias_attention=attention, bias_ffn=ffn, window=windows[0], window_next=windows[1], **codes)


def router_record(memory: U8, address: int) -> tuple[NDArray[np.float32], Phases]:
    """The inverse: (2,) biases of attention and FFN, and the policies in the record at ``address``."""
    record = ROUTER_RECORD.unpack(memory, address)
    bias = np.array([record["bias_attention"], record["bias_ffn"]], np.uint32).view(np.float32)

    def pair(phase: Phase) -> Pair:
        attention, ffn = (policy_of(record[policy_field(module, phase)]) for module in Module)
        return attention, ffn

    return bias, (pair(Phase.PREFILL), pair(Phase.DECODE))


def router_windows(memory: U8, address: int) -> tuple[int, int]:
    """The windows in the record at ``address``: of its layer and of the next."""
    record = ROUTER_RECORD.unpack(memory, address)
    return record["window"], record["window_next"]


# One per retired instruction in check mode.
RING_RECORD = Record(
    "ring record",
    16,
    (
        Field("sequence", 32, "number in the order of dispatch, from 1; 0: never written"),
        Field("pc", 32, "the instruction's index"),
        Field("signature", 32, "over what it wrote"),
        Field("cycle", 32, "when it retired; of timing only"),
    ),
)
