"""What stands between products in models that are no plain Llama: norms and biases of results, rotations, activations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.checkpoint import Checkpoint
from compiler.graph.ops import Adjust, Op, Value
from skipopu.isa.spec import Finish, Reduce, TokenList
from skipopu.model_config import ModelConfig

F32 = NDArray[np.float32]


def rotates_apart(config: ModelConfig) -> bool:
    """Whether layers have rotary tables of their own; a product's results are rotated by the one that the chunk starts with."""
    return len(set(config.rope_of_layer)) > 1


def adjusts(config: ModelConfig, product: str) -> bool:
    """Whether the results of ``product`` (q, k, v, o, up or down) go through an ADJUST."""
    if product in config.biases:
        return True
    if product in ("q", "k"):
        return bool(config.qk_norm) or rotates_apart(config)
    return config.post_norm if product in ("o", "down") else product == "up" and not config.gated


def reasons(config: ModelConfig) -> list[str]:
    """The fields, with their values, for which a program of the model has ADJUST."""
    fields: dict[str, object] = {
        "biases": ", ".join(config.biases),
        "qk_norm": config.qk_norm,
        "post_norm": config.post_norm,
        "gated": config.gated,
        "ffn_norm_bias": config.ffn_norm_bias,
        "final_bias": config.final_bias,
        "rope_of_layer": list(config.rope_of_layer),
    }
    asks = (
        *(config.biases, config.qk_norm, config.post_norm, not config.gated),
        *(config.ffn_norm_bias, config.final_bias, rotates_apart(config)),
    )
    return [f"{name} {value}" for (name, value), asked in zip(fields.items(), asks, strict=True) if asked]


class Adjusted:
    """Makes the ADJUSTs of a checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.config, self.tensors, self.outline = checkpoint.config, checkpoint.tensors, checkpoint.outline

    def vectors(self, name: str | None, elements: int, default: float, layered: bool) -> list[F32]:
        """(elements,) of each layer, repeated head by head where the tensor is shorter; ``default`` where there is none."""
        names = [f"model.layers.{layer}.{name}" for layer in range(self.config.num_layers)] if layered else [f"model.{name}"]
        if name is None or self.outline:
            return [np.broadcast_to(np.float32(default), elements)] * len(names)
        return [np.tile(self.tensors[n], elements // len(self.tensors[n])) for n in names]

    def ops(
        self,
        name: str,
        note: str,
        tokens: TokenList,
        reads: tuple[Value, ...],
        writes: tuple[Value, ...],
        elements: int,
        bias: str | None = None,
        gain: str | None = None,
        heads: bool = False,
        finish: Finish = Finish.STORE,
        order: str = "plain",
        first: int = 0,
        norm_first: bool = False,
        layered: bool = True,
    ) -> list[Op]:
        """ADJUSTs of ``reads[0]`` into ``writes[0]``: the bias is added, the norm taken, then ``finish``.

        ``bias`` and ``gain`` are tensors' names, None for none; ``heads``: the norm is over each head; ``norm_first``: the norm's own
        bias. A bias in front of a norm is added in place by an ADJUST before. Not ``layered``: outside the layer loop.
        """
        before: list[Op] = []
        reduce = Reduce.NONE if gain is None else Reduce.HEADS if heads else Reduce.WHOLE
        ones, zeros = (self.vectors(None, elements, value, layered) for value in (1, 0))
        biases = zeros if bias is None else self.vectors(bias, elements, 0, layered)
        if bias is not None and gain is not None and not norm_first:
            added = Adjust(f"{name}_bias", ones, biases, order=order, first=first)
            before = [Op("adjust", f"{note}: bias", tokens, reads, reads[:1], adjust=added)]
            biases = zeros
        gains = ones if gain is None else self.vectors(gain, elements, 1, layered)
        tables = (self.config.rope_of_layer or (0,) * self.config.num_layers) if finish is Finish.ROTATE else ()
        adjust = Adjust(name, gains, biases, reduce, finish, order, tables, first)
        return [*before, Op("adjust", note, tokens, reads, writes, adjust=adjust)]
