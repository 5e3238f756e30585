"""The reference engine: PyTorch on a compiled program's own dequantised weights, FP32 arithmetic, K and V rounded to FP16."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sim.engine import QUIET, Watch
from sim.masks import Masks
from sim.reference.decide import Deciding
from sim.reference.image import model_of as model_of
from sim.reference.masks import Compared, Masking, Replayed, replayed
from sim.reference.model import Output, SkipLlama
from sim.reference.options import Options as Options
from sim.result import Routed
from skipopu.model_config import ModelConfig
from skipopu.numerics import soft_cap
from skipopu.program.program import Program
from skipopu.program.run import Run

name = "reference"


def forward(program: Program, model: SkipLlama, tokens: Tensor, options: Run, routing: Tensor | None = None) -> Output:
    """Teacher-forced pass over (batch, tokens) with the program's KV policy, the run's dial and routing option."""
    return decided(program, model, tokens, options, routing)[0]


def decided(
    program: Program,
    model: SkipLlama,
    tokens: Tensor,
    options: Run,
    routing: Tensor | None = None,
    masks: Replayed | None = None,
) -> tuple[Output, Deciding, Masking]:
    """:func:`forward`, and what policies and masks looked at; ``masks`` are replayed."""
    if isinstance(options.routing, np.ndarray) and routing is None:
        routing = torch.from_numpy(options.routing[None, :, :, : tokens.shape[1]].copy()).expand(len(tokens), -1, -1, -1)
    deciding = Deciding(program, options, tokens.shape[1])
    masking = Masking(program, model.thresholds, options, tokens.shape[1], masks)
    model.see, model.mask = deciding.see, masking if model.thresholds else None
    out = model(tokens, kv=program.kv, routing=routing, rule=deciding.rule)
    return replace(out, channels=masking.channels(out.gates, program.kv)), deciding, masking


def run(program: Program, run: Run, options: Options | None = None, watch: Watch = QUIET) -> Routed:
    """Greedy generation, ties to the lowest id; recomputes the whole sequence for every token, wherever the run begins."""
    run.validate(program)
    model = model_of(program)
    sequence = list(run.known)
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
    predicted = [] if run.predict_from is None else out.logits[0, run.predict_from : len(run.known)].argmax(-1).tolist()
    return Routed(
        tokens=generated,
        routing=out.gates[0].bool().numpy(),
        predicted=predicted,
        channels=out.channels,
        saturated=saturated,
    )


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
    Masks are replayed too, and each of their bits is compared with what the reference's own numbers say, which decide where they do so
    with the same bounds on both sides of them.
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
    masks: Compared = field(default_factory=Compared)
    non_finite: int = 0  # NaN and infinities among the reference's logits, router differences and bounds

    @property
    def ok(self) -> bool:
        return not (self.routing_differing or self.token_differing or self.masks.differing or self.non_finite)

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
    masks: Sequence[Masks] = (),
) -> Agreement:
    """Compares the machine's decisions on equally long ``sequences`` (prompt and generated tokens) with the reference.

    ``routing`` (sequences, layers, 2, tokens) are the machine's bits of the tokens it processed: all but a last generated one.
    ``logits`` (sequences, tokens, vocab) optional. ``masks`` are the machine's, of each sequence, where the program has any.
    """
    model = model_of(program)
    ids = torch.tensor(sequences)
    inputs, chosen = ids[:, : routing.shape[-1]], ids[:, prompt_length:]
    replay = torch.from_numpy(routing[..., : inputs.shape[1]].copy())
    masked = replayed(masks) if masks else None
    out, deciding, masking = decided(program, model, inputs, options, replay, masked)
    margin = deciding.margins(out.differences)
    # torch.maximum and amax keep a NaN; Python's max(0.0, nan) is 0.0.
    logit_error, route_error = torch.zeros(()), torch.zeros(program.model.num_layers, 2)
    for number in range(DISTURBED_RUNS):
        generator = torch.Generator().manual_seed(seed + number)
        model.disturb = _noise(program.matrices["head"]["group"], program.model, generator)
        noisy, noisily, disturbed = decided(program, model, inputs, options, replay, masked)
        masking.spread(disturbed)
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
        masks=masking.compared(SAFETY, deciding.norm_error, program.matrices["head"]["group"]),
        non_finite=sum(int((~t.isfinite()).sum()) for t in (out.logits, margin, logit_bound, routing_bound)),
    )
