"""One generation on one machine, by the timing engine: what it takes in time, bytes, energy and memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.shapes import outline
from compiler.pipeline import compile_checkpoint
from sim.mask_traces import TO_LEAVE_OUT, with_masks
from sim.masks import Active
from sim.result import Routed, Timed
from sim.routing import independent, ratios
from sim.timing import energy
from sim.timing import engine as timing
from sim.timing.masks import channels as channels_of
from skipopu import masks
from skipopu.errors import ProgramError
from skipopu.machine.config import Machine
from skipopu.model_config import ModelConfig
from skipopu.program.program import Program
from skipopu.program.run import Run

# Bits of a weight, and its share of what its group of 128 carries.
STORED_BITS = {
    "int4": (4, 16 / 128),  # an FP16 scale: this machine's, without routers
    "int4 with zero points": (4, 20 / 128),  # a 4-bit zero point too: the paper's
    "fp16": (16, 0.0),
}
WEIGHT_BITS = {name: own + shared for name, (own, shared) in STORED_BITS.items()}


@dataclass(frozen=True)
class Workload:
    """Batch 1: ``prompt`` tokens in, ``new`` tokens out.

    Attributes:
        model: name of a shape, or of a checkpoint.
        skip: skip ratios, as ``--skip`` takes them.
        kv: policy for tokens that skip attention.
        seed: of random routing.
        routers: kind, of a shape.
        history: tokens that the KV history buffer keeps; None is what it holds.
        masked: share of input channels that products of generated tokens leave out, drawn unless masks are replayed; None: there are
            no thresholds.
        group: weights per scale; None is what the model says, of a shape 128.
    """

    model: str
    prompt: int
    new: int
    skip: str = "0"
    kv: str = "reuse"
    seed: int = 0
    routers: str = "linear"
    history: int | None = None
    masked: float | None = None
    group: int | None = None

    @property
    def context(self) -> str:
        return f"{self.prompt}+{self.new}"

    @property
    def mean_context(self) -> int:
        """Tokens that the middle one of the new tokens sees."""
        return self.prompt + self.new // 2

    def routing(self, layers: int) -> NDArray[np.bool_]:
        """Random, of ``skip`` and ``seed``: bool (layers, 2, prompt + new), 1 = execute."""
        return independent(layers, self.prompt + self.new, *ratios(self.skip, layers), self.seed)


@dataclass(frozen=True)
class Estimate:
    """What the timing engine counted; decoding is from the first to the last generated token.

    Attributes:
        first, last: counters as the first and the last new token were written.
        cycles: (new,), when each was written.
        kv_entries: allocated.
        attention, ffn: executed shares.
        regions: bytes in all ports, by the program's regions.
    """

    machine: Machine
    workload: Workload
    config: ModelConfig
    first: dict[str, int]
    last: dict[str, int]
    cycles: NDArray[np.int64]
    kv_entries: int
    attention: float
    ffn: float
    regions: dict[str, int]
    instructions: int

    @property
    def clock(self) -> float:
        """Hz, assumed."""
        return self.machine.clock_mhz * 1e6

    @property
    def decode(self) -> dict[str, int]:
        """Counters from the first to the last token."""
        return {name: value - self.first[name] for name, value in self.last.items()}

    @property
    def time_to_first_token(self) -> float:
        """Seconds."""
        return self.first["CYCLES"] / self.clock

    @property
    def seconds_per_token(self) -> float:
        return self.decode["CYCLES"] / self.clock / (len(self.cycles) - 1)

    @property
    def tokens_per_s(self) -> float:
        return 1 / self.seconds_per_token

    @property
    def bytes_per_token(self) -> float:
        """Physical: every beat that decoding reads or writes."""
        beats = self.decode["READ_BEATS"] + self.decode["WRITE_BEATS"]
        return beats * self.machine.beat_bytes / (len(self.cycles) - 1)

    @property
    def bandwidth(self) -> float:
        """Bytes per second of decoding."""
        return self.bytes_per_token * self.tokens_per_s

    @property
    def efficiency(self) -> float:
        """Physical bytes per second over the ports' peak."""
        return self.bandwidth / self.machine.peak_bandwidth

    @property
    def share_of_cap(self) -> float:
        """Physical bytes per second over what endless reads reach."""
        return self.bandwidth / self.machine.bandwidth_cap

    @property
    def roof(self) -> float:
        """Tokens per second if the same bytes came at the cap without a pause."""
        return self.machine.bandwidth_cap / self.bytes_per_token

    def energy(self) -> list[energy.Part]:
        """Of decoding, in J per token."""
        tokens = len(self.cycles) - 1
        parts = energy.estimate(self.machine, self.decode)
        return [energy.Part(part.event, part.count / tokens, part.joules * (1 / tokens)) for part in parts]

    def prefill_energy(self) -> energy.Range:
        """J up to the first token."""
        return energy.total(energy.estimate(self.machine, self.first))

    def rate_over_context(self, tokens: int = 32) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(contexts, tokens per second), means over ``tokens`` tokens."""
        steps = np.diff(self.cycles)
        whole = len(steps) // tokens * tokens
        rates = self.clock / steps[:whole].reshape(-1, tokens).mean(1)
        return self.workload.prompt + tokens // 2 + tokens * np.arange(len(rates)), rates


def estimate(
    machine: Machine,
    workload: Workload,
    config: ModelConfig | None = None,
    routing: NDArray[np.bool_] | None = None,
    active: Active | None = None,
) -> Estimate:
    """Compiles and times ``workload``; ``config``, ``routing`` and ``active`` replace its known shape, random routing and drawn masks.

    Raises:
        ProgramError, CheckpointError: the model is not known or does not fit the machine, with both numbers.
    """
    if workload.new < 2:
        raise ProgramError(f"{workload.new} new tokens; a decoding rate needs at least 2")
    checkpoint = outline(workload.model, workload.routers, config)
    layers, total = checkpoint.config.num_layers, workload.prompt + workload.new
    if routing is None:
        routing = workload.routing(layers)
    elif len(routing) != layers or routing.shape[2] < total - 1:
        raise ProgramError(
            f"the routing trace has shape {routing.shape}; {workload.model} at {workload.context} needs ({layers}, 2, {total - 1})"
        )
    if workload.masked is not None:
        machine.require_masks(TO_LEAVE_OUT)
        checkpoint = with_masks(checkpoint, active)
    program = compile_checkpoint(
        checkpoint, machine, workload.kv, context=total, group=workload.group, history=workload.history
    )
    channels = None
    if workload.masked is not None:
        channels = channels_of(program, workload.masked, active, workload.seed)
    run = Run((0,) * workload.prompt, workload.new)
    run.validate(program)
    result = timing.run(program, run, timing.Options(Routed(tokens=[0] * workload.new, routing=routing), channels=channels))
    return of_result(program, workload, result)


def of_result(program: Program, workload: Workload, result: Timed) -> Estimate:
    """The figures of a timed run."""
    machine = program.machine
    return Estimate(
        machine,
        workload,
        program.model,
        result.at_token[0],
        result.at_token[-1],
        np.array([counters["CYCLES"] for counters in result.at_token]),
        result.kv_entries,
        float(result.routing[:, 0].mean()),
        float(result.routing[:, 1].mean()),
        {name: region.size * machine.ports for name, region in program.regions.items()},
        len(program.instructions),
    )


def layer_weights(config: ModelConfig) -> int:
    """Weights of one layer's matrices."""
    return sum(masks.weights(config).values())


def kv_bytes(config: ModelConfig) -> int:
    """Bytes of one token's FP16 keys and values at one layer."""
    return 2 * 2 * config.num_kv_heads * config.head_dim


def masked_bits(weights: str, masked: float) -> float:
    """WEIGHT_BITS with a share of the channels masked: their weights are not read, what their groups share is."""
    own, shared = STORED_BITS[weights]
    return own * (1 - masked) + shared


def workload_bytes(config: ModelConfig, context: int, weights: str, skipped: float = 0.0, masked: float = 0.0) -> float:
    """Bytes of one decoded token by the formula that papers use: nothing is read twice, nothing is padded.

    Layers' weights, less the ``masked`` share, and FP16 keys and values of the ``context`` tokens, or of those in a layer's window, each
    less the skipped share, and the head.
    """
    seen = sum(config.window(layer, context) or context for layer in range(config.num_layers))
    read = weight_bytes(config, masked_bits(weights, masked), WEIGHT_BITS[weights], skipped)
    return read + kv_bytes(config) * seen * (1 - skipped)


def weight_bytes(config: ModelConfig, bits: float, head_bits: float | None = None, skipped: float = 0.0) -> float:
    """Bytes of the weights that one decoded token reads: layers' matrices less the skipped share, and the head.

    ``bits`` are of a stored weight with its share of scales and zero points, ``head_bits`` of the head's (None: the same). Neither
    the embedding's table nor keys and values count.
    """
    head = config.hidden_size * config.vocab_size * (bits if head_bits is None else head_bits)
    return (config.num_layers * layer_weights(config) * bits * (1 - skipped) + head) / 8


def prefill_products(config: ModelConfig, tokens: int) -> tuple[int, int]:
    """(weight products of the layers and the last token's head, attention products) of a dense prefill."""
    windows = [config.window(layer, tokens) or tokens for layer in range(config.num_layers)]
    # Token t sees min(t, window) tokens.
    seen = sum(window * (window + 1) // 2 + (tokens - window) * window for window in windows)
    head = config.hidden_size * config.vocab_size
    return config.num_layers * layer_weights(config) * tokens + head, 2 * config.num_heads * config.head_dim * seen
