"""The reference engine: PyTorch on a compiled program's own dequantised weights, FP32 arithmetic, K and V rounded to FP16."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compiler.passes.fold import attention_scale
from sim.engine import QUIET, Watch
from sim.reference.decide import Deciding
from sim.reference.model import Output, SkipLlama
from sim.reference.options import Options as Options
from sim.reference.state import load_hf_state_dict
from sim.result import Routed
from skipopu.adjust_record import adjust_operands
from skipopu.layout import EmbeddingRows
from skipopu.model_config import ModelConfig
from skipopu.numerics import soft_cap
from skipopu.numerics.formats import dequantise
from skipopu.program.program import Program
from skipopu.program.run import Run
from skipopu.records import router_record
from skipopu.row_order import permutation

name = "reference"


def dequantised(program: Program, name: str, layer: int = 0) -> NDArray[np.float32]:
    """One matrix of the image as (rows, n) float32 in the checkpoint's row order."""
    d = program.matrices[name]
    stream = program.stream(name)
    address = d["address"] + layer * d["layer_stride"]
    rows = dequantise(*stream.unpack([port[address : address + stream.size] for port in program.memory]), d["n"])
    return _unordered(program, d["order"], rows)


def _unordered(program: Program, order: str, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of the image in the checkpoint's order."""
    ordered = np.empty_like(rows)
    ordered[permutation(order, program.model, len(rows))] = rows
    return ordered


def adjusted(program: Program, name: str, layer: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Gains and biases of an ADJUST, (elements,) each, in the checkpoint's order; ones and zeros where there is none."""
    d = program.adjusts[name]
    operands = adjust_operands(program.memory[0], d["address"] + layer * d["layer_stride"], d["elements"])
    gains, biases = (_unordered(program, d["order"], part) for part in operands)
    return gains, biases


def model_of(program: Program, dtype: torch.dtype = torch.float32) -> SkipLlama:
    """The model that the image describes; gains of norms in front of products are part of its weights."""
    config = program.model
    region = program.regions["embedding"]
    embedding = EmbeddingRows(config.hidden_size, config.vocab_size, program.machine.ports)
    table = embedding.unpack([port[region.address : region.address + embedding.size] for port in program.memory])
    one = np.ones(config.hidden_size, np.float32)
    base: dict[str, NDArray[np.float32]] = {"model.norm.weight": one, "lm_head.weight": dequantised(program, "head")}
    if config.final_bias:
        base["model.norm.weight"], base["model.norm.bias"] = adjusted(program, "final")
    for layer in range(config.num_layers):
        base |= {f"model.layers.{layer}.{name}": tensor for name, tensor in _layer(program, layer).items()}
    routers: dict[str, NDArray[np.float32]] = {}
    for layer in range(config.num_layers):
        routers |= {f"model.layers.{layer}.{name}": tensor for name, tensor in _routers(program, layer).items()}
    # The head is quantised, the embedding is not: they are never tied here.
    model = SkipLlama(config.untied).to(dtype)
    base["model.embed_tokens.weight"] = table.astype(np.float32)
    load_hf_state_dict(
        model, {n: torch.from_numpy(t) for n, t in base.items()}, {n: torch.from_numpy(t) for n, t in routers.items()}
    )
    model.round_kv = True
    return model.requires_grad_(False)


def _routers(program: Program, layer: int) -> dict[str, NDArray[np.float32]]:
    """The tensors of one layer's routers."""
    digits = dequantised(program, "router", layer)
    bias, _ = router_record(program.memory[0], program.router_record[0] + layer * program.router_record[1])
    hidden, added = np.zeros((0, 0), np.float32), np.zeros(0, np.float32)
    if two := "router_hidden" in program.matrices:
        hidden, (_, added) = dequantised(program, "router_hidden", layer), adjusted(program, "router_hidden", layer)
    tensors: dict[str, NDArray[np.float32]] = {}
    for module, name in enumerate(("attention", "mlp")):
        weight, prefix = digits[2 * module] + digits[2 * module + 1], f"router_{name}"
        if two:  # each reads its half of what the first layer gives
            weight = np.split(weight, 2)[module]
            tensors[f"{prefix}.hidden_layer.weight"] = np.split(hidden, 2)[module]
            tensors[f"{prefix}.hidden_layer.bias"] = np.split(added, 2)[module]
        tensors[f"{prefix}.weight_predictor.weight"] = np.stack([weight, 0 * weight])
        tensors[f"{prefix}.weight_predictor.bias"] = np.array([bias[module], 0], np.float32)
    return tensors


def _layer(program: Program, layer: int) -> dict[str, NDArray[np.float32]]:
    """One layer's tensors but for its routers'."""
    config, one = program.model, np.ones(program.model.hidden_size, np.float32)
    scale = np.float32(attention_scale(config))
    tensors: dict[str, NDArray[np.float32]] = {}
    if config.pre_norm:
        tensors["input_layernorm.weight"] = tensors["post_attention_layernorm.weight"] = one
    if config.ffn_norm_bias:
        norm = "post_attention_layernorm"
        tensors[f"{norm}.weight"], tensors[f"{norm}.bias"] = adjusted(program, "ffn_norm", layer)
    key, value = np.split(dequantised(program, "kv", layer), 2)
    products = {"q": dequantised(program, "q", layer), "k": key, "v": value, "o": dequantised(program, "o", layer)}
    if config.gated:
        products["gate"], products["up"] = np.split(dequantised(program, "gate_up", layer), 2)
    else:
        products["up"] = dequantised(program, "up", layer)
    products["down"] = dequantised(program, "down", layer)
    gains = dict.fromkeys("qk", "self_attn.{}_norm") if config.qk_norm else {}
    gains |= {"o": "attention_post_norm", "down": "mlp_post_norm"} if config.post_norm else {}
    for name, matrix in products.items():
        place = f"{'self_attn' if name in 'qkvo' else 'mlp'}.{name}_proj"
        own = scale if name == "q" else np.float32(1)
        tensors[f"{place}.weight"] = matrix / (own if name not in gains else np.float32(1))
        if name in config.biases:
            before = name in gains  # of the norm, which has an ADJUST of its own
            _, bias = adjusted(program, f"{name}_bias" if before else name, layer)
            tensors[f"{place}.bias"] = bias / (own if not before else np.float32(1))
        if name in gains:
            gain, _ = adjusted(program, name, layer)
            size = config.head_dim if config.qk_norm == "head" and name in "qk" else len(gain)
            tensors[f"{gains[name].format(name)}.weight"] = gain[:size] / own
    return tensors


def forward(program: Program, model: SkipLlama, tokens: Tensor, options: Run, routing: Tensor | None = None) -> Output:
    """Teacher-forced pass over (batch, tokens) with the program's KV policy, the run's dial and routing option."""
    return decided(program, model, tokens, options, routing)[0]


def decided(
    program: Program, model: SkipLlama, tokens: Tensor, options: Run, routing: Tensor | None = None
) -> tuple[Output, Deciding]:
    """:func:`forward`, and what the policies looked at."""
    if isinstance(options.routing, np.ndarray) and routing is None:
        routing = torch.from_numpy(options.routing[None, :, :, : tokens.shape[1]].copy()).expand(len(tokens), -1, -1, -1)
    deciding = Deciding(program, options, tokens.shape[1])
    model.see = deciding.see
    return model(tokens, kv=program.kv, routing=routing, rule=deciding.rule), deciding


def run(program: Program, run: Run, options: Options | None = None, watch: Watch = QUIET) -> Routed:
    """Greedy generation, ties to the lowest id; recomputes the whole sequence for every token."""
    run.validate(program)
    model = model_of(program)
    sequence = list(run.prompt)
    generated: list[int] = []
    saturated = False
    while True:
        out = forward(program, model, torch.tensor([sequence]), run)
        watch.positions(len(sequence))
        saturated |= not bool(out.logits.isfinite().all())
        if len(generated) >= run.max_new:
            break
        token = int(out.logits[0, -1].argmax())
        generated.append(token)
        watch.token(token)
        if token in program.model.eos_token_ids or len(generated) >= run.max_new:
            break
        sequence.append(token)
    return Routed(tokens=generated, routing=out.gates[0].bool().numpy(), saturated=saturated)


@dataclass(frozen=True)
class Agreement:
    """How far the machine's numbers are from the reference's over a set of sequences.

    The reference is run teacher-forced on the machine's tokens with the machine's routing replayed. A position *decides*
    when the reference's margin (what its policy weighs against the dial, best logit against the second best) exceeds the bound: its
    policy's rule says the same whether what it weighs is larger or smaller by that; every deciding position must agree. The bounds (one
    for the logits, one for each layer's two modules; ``routing_bound`` is the largest of those) are four times the largest deviation that the
    alignment error causes: the reference is run ``DISTURBED_RUNS`` times with errors of half a unit of the aligned 18-bit grid, uniform, seeded, on the
    input of every product, and with errors as large as the machine's on capped scores. All other roundings of the machine (FP32, tables, probabilities)
    are at least 8 times smaller, but for those of 1/rms (see :class:`sim.reference.decide.Deciding`), which are added where norms are weighed.
    """

    routing_bound: float
    logit_bound: float
    routing_positions: int
    routing_inside: int
    routing_differing: int  # deciding positions whose bit differs
    token_positions: int
    token_inside: int
    token_differing: int
    max_logit_error: float | None
    non_finite: int = 0  # NaN and infinities among the reference's logits, router differences and bounds

    @property
    def ok(self) -> bool:
        return not self.routing_differing and not self.token_differing and not self.non_finite

    @property
    def undecided(self) -> bool:
        """Whether there were decisions to compare, and the bounds left every one of them open."""
        return (
            self.routing_positions + self.token_positions > 0
            and self.routing_inside == self.routing_positions
            and self.token_inside == self.token_positions
        )


DISTURBED_RUNS = 4
SAFETY = 4.0


def _noise(group: int, config: ModelConfig, generator: torch.Generator) -> Callable[[str, Tensor], Tensor]:
    def disturb(name: str, x: Tensor) -> Tensor:
        if name.endswith("score"):
            most = 2 * config.attention_cap * soft_cap.ERROR
            return x + most * (2 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1)
        size = config.head_dim if name.endswith(("query", "key", "value")) else group
        n = x.shape[-1]
        padded = torch.nn.functional.pad(x, (0, -n % size)).unflatten(-1, (-1, size))
        _, exponent = torch.frexp(padded.abs().amax(-1, keepdim=True))
        unit = torch.ldexp(torch.ones_like(exponent, dtype=x.dtype), exponent - 17)
        noise = (torch.rand(padded.shape, generator=generator, dtype=x.dtype) - 0.5) * unit
        return (padded + noise).flatten(-2)[..., :n]

    return disturb


def agreement(
    program: Program,
    options: Run,
    sequences: list[list[int]],
    prompt_length: int,
    routing: NDArray[np.bool_],
    logits: NDArray[np.float32] | None = None,
    seed: int = 0,
) -> Agreement:
    """Compares the machine's decisions on equally long ``sequences`` (prompt and generated tokens) with the reference.

    ``routing`` (sequences, layers, 2, tokens) are the machine's bits of the tokens it processed: all but a last generated one.
    ``logits`` (sequences, tokens, vocab) optional.
    """
    model = model_of(program)
    ids = torch.tensor(sequences)
    inputs, chosen = ids[:, : routing.shape[-1]], ids[:, prompt_length:]
    replay = torch.from_numpy(routing[..., : inputs.shape[1]].copy())
    out, deciding = decided(program, model, inputs, options, replay)
    margin = deciding.margins(out.differences)
    # torch.maximum and amax keep a NaN; Python's max(0.0, nan) is 0.0.
    logit_error, route_error = torch.zeros(()), torch.zeros(program.model.num_layers, 2)
    for number in range(DISTURBED_RUNS):
        generator = torch.Generator().manual_seed(seed + number)
        model.disturb = _noise(program.matrices["head"]["group"], program.model, generator)
        noisy, noisily = decided(program, model, inputs, options, replay)
        logit_error = torch.maximum(logit_error, (noisy.logits - out.logits).abs().amax())
        route_error = torch.maximum(route_error, (noisily.margins(noisy.differences) - margin).abs().amax((0, 3)))
    model.disturb = None
    logit_bound, routing_bound = SAFETY * logit_error, SAFETY * route_error
    # Routing: only bits for which something was weighed.
    routed = deciding.every(deciding.weighs).expand(replay.shape)
    slack = routing_bound[..., None] + deciding.every(deciding.rounding)
    before = torch.cat([torch.ones_like(replay[:, :1]), replay[:, :-1]], 1)
    least, most = (deciding.decisions(out.differences, before, more) for more in (-slack, slack))
    sure_routing = routed & (least == most)
    differing = sure_routing & (least != replay)
    scores = out.logits[:, prompt_length - 1 :][:, : chosen.shape[1]]
    best = torch.nn.functional.pad(scores, (0, 1), value=-torch.inf).topk(2, -1)  # a second best even of one
    gap = best.values[..., 0] - best.values[..., 1]
    sure = gap > 2 * logit_bound
    wrong = sure & (best.indices[..., 0] != chosen)
    return Agreement(
        routing_bound=float(routing_bound.max()),
        logit_bound=float(logit_bound),
        routing_positions=int(routed.sum()),
        routing_inside=int((routed & ~sure_routing).sum()),
        routing_differing=int(differing.sum()),
        token_positions=gap.numel(),
        token_inside=int((~sure).sum()),
        token_differing=int(wrong.sum()),
        max_logit_error=None if logits is None else float((torch.from_numpy(logits) - out.logits).abs().max()),
        non_finite=sum(int((~t.isfinite()).sum()) for t in (out.logits, margin, logit_bound, routing_bound)),
    )
