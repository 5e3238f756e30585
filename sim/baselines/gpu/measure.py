"""Rates, bandwidth, power: measured on the device, medians over repeats."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sim.baselines.gpu.decoder import Decoder
from sim.baselines.gpu.masks import SAMPLES
from skipopu.masks import ATTENTION, ATTENTION_OUTPUT, FFN, FFN_INNER, channels


@dataclass(frozen=True)
class Spread:
    """Median, least and largest of some repeats."""

    median: float
    least: float
    largest: float

    @staticmethod
    def of(values: list[float]) -> Spread:
        return Spread(float(np.median(values)), min(values), max(values))


def timed(device: torch.device, *works: Callable[[], object]) -> list[float]:
    """Seconds that each of ``works``, done one after the other, takes on the device."""
    if device.type != "cuda":
        marks = [time.perf_counter()]
        for work in works:
            work()
            marks.append(time.perf_counter())
        return [after - before for before, after in itertools.pairwise(marks)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(len(works) + 1)]
    torch.cuda.synchronize()
    events[0].record()
    for work, event in zip(works, events[1:], strict=True):
        work()
        event.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) / 1e3 for before, after in itertools.pairwise(events)]


def copy_bandwidth(device: torch.device, repeats: int = 20) -> Spread:
    """Bytes per second read and written by copies that no cache holds."""
    size = 1 << 30 if device.type == "cuda" else 1 << 26
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = [timed(device, lambda: target.copy_(source))[0] for _ in range(repeats + 2)][2:]
    return Spread.of([2 * size / s for s in seconds])


class Power:
    """Watts of the board while the block runs, as the driver tells them ten times a second; ``mean`` is None where it does not."""

    def __init__(self, device: torch.device) -> None:
        self.samples: list[float] = []
        self.command = None
        if device.type == "cuda" and shutil.which("nvidia-smi"):
            uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            query = ["--query-gpu=power.draw", "--format=csv,noheader,nounits", "--loop-ms=100", f"--id={uuid}"]
            self.command = ["nvidia-smi", *query]

    def __enter__(self) -> Power:
        if self.command:
            self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            self.thread = threading.Thread(target=self._read, daemon=True)
            self.thread.start()
        return self

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                self.samples.append(float(line))
            except ValueError:  # "[N/A]"
                return

    def __exit__(self, *error: object) -> None:
        if self.command:
            self.process.terminate()
            self.thread.join()

    @property
    def mean(self) -> float | None:
        """Without the first samples, in which the clock rises."""
        later = self.samples[len(self.samples) // 4 :]
        return float(np.mean(later)) if later else None


@dataclass(frozen=True)
class Measurement:
    """Of decoding from the first to the last new token; bytes are those that the executed modules must read and write."""

    tokens_per_s: Spread
    first_token_s: Spread
    bytes_per_token: float
    watts: float | None
    entries: int

    @property
    def bytes_per_s(self) -> float:
        return self.bytes_per_token * self.tokens_per_s.median


def measure(
    decoder: Decoder, prompt: list[int], new: int, repeats: int, trace: NDArray[np.bool_] | None, say: Callable[[str], None]
) -> Measurement:
    """Generates ``new`` tokens behind ``prompt``, ``repeats`` times after one that does not count."""
    s, device = decoder.state, decoder.weights.device
    s.tokens[: len(prompt)] = torch.tensor(prompt, device=device)
    s.reset()
    decoder.prefill(len(prompt))
    decoder.capture()
    rates, firsts = [], []
    power = Power(device)
    for repeat in range(repeats + 1):
        s.reset()
        with power if repeat else Power(torch.device("cpu")):
            first, rest = timed(device, lambda: decoder.prefill(len(prompt)), lambda: decoder.run(new - 1))
        if repeat:
            firsts.append(first)
            rates.append((new - 1) / rest)
            say(f"{repeat} of {repeats}: {rates[-1]:.1f} tokens/s, first token after {first:.4f} s")
    traffic = bytes_per_token(decoder, len(prompt), new, trace)
    return Measurement(Spread.of(rates), Spread.of(firsts), traffic, power.mean, int(s.entries))


def bytes_per_token(decoder: Decoder, prompt: int, new: int, trace: NDArray[np.bool_] | None) -> float:
    """Mean over the decoded tokens, of the run that ``decoder`` has just done."""
    w, s = decoder.weights, decoder.state
    c, steps = w.config, new - 1
    positions = np.arange(prompt, prompt + steps)
    if s.policy is None:
        executed = np.ones((c.num_layers, 2, steps))
    elif trace is not None:
        executed = trace[:, :, positions].astype(float)
    else:  # how often is known, not when
        share = s.taken.cpu().numpy() / (prompt + steps)
        executed = np.broadcast_to(share[:, :, None], (c.num_layers, 2, steps))
    entry = 2 * c.num_kv_heads * c.head_dim * s.keys.element_size()
    active = dict.fromkeys(channels(c), np.ones((c.num_layers, steps)))
    if s.masks is not None:
        active = {name: s.masks.share(name)[:, positions % SAMPLES] for name in active}
    total = 0.0
    for number, (layer, (attention, ffn)) in enumerate(zip(w.layers, executed, strict=True)):
        of = {name: share[number] for name, share in active.items()}
        total += (attention * (layer.qkv.read(of[ATTENTION]) + layer.o.read(of[ATTENTION_OUTPUT]))).sum()
        total += (ffn * (layer.gate_up.read(of[FFN]) + layer.down.read(of[FFN_INNER]))).sum()
        total += (attention * (positions + 1)).sum() * entry  # the token's own entry is written
        if s.policy == "dense":
            share = 2 * c.num_kv_heads / (c.num_heads + 2 * c.num_kv_heads)
            total += ((1 - attention) * (share * layer.qkv.read(of[ATTENTION]) + entry)).sum()
        if s.policy is not None:
            total += steps * layer.router.numel() * layer.router.element_size()
    total += steps * (w.head.bytes + w.embedding.shape[1] * w.embedding.element_size())
    return total / steps


def check(decoder: Decoder, expected: torch.Tensor, tokens: list[int], unmasked: torch.Tensor | None = None) -> float:
    """Largest relative error of the logits of given ``tokens`` against ``expected``: decoded step by step, and of a prefill's last.

    ``unmasked`` is what the prefill is held to where the steps' channels are masked.
    """
    s = decoder.state
    s.reset()
    s.tokens[: len(tokens)] = torch.tensor(tokens, device=decoder.weights.device)
    worst = 0.0
    for row in expected:
        decoder.step()
        worst = max(worst, float((s.logits - row).norm() / row.norm()))
    s.reset()
    decoder.prefill(len(tokens))
    last = (expected if unmasked is None else unmasked)[-1]
    return max(worst, float((s.logits - last).norm() / last.norm()))
