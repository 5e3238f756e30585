"""Decoding one token after the other without the host: a CUDA graph per token, replayed."""

from __future__ import annotations

import contextlib
from types import ModuleType

import torch
from torch.nn import functional

from sim.baselines.gpu import plain
from sim.baselines.gpu.state import State
from sim.baselines.gpu.weights import Weights


def backend(device: torch.device, name: str = "auto") -> ModuleType:
    """The steps in Triton where it runs, else in PyTorch; ``name`` is auto, triton or torch."""
    if name == "torch" or (name == "auto" and device.type != "cuda"):
        return plain
    with contextlib.suppress(ImportError):
        from sim.baselines.gpu import kernels

        return kernels
    if name == "triton":
        raise ImportError("Triton is not installed; --backend torch does without")
    return plain


class Decoder:
    """Runs a sequence on ``state``; see :class:`State` for the policies of skipping.

    A step takes the token at ``state.position``, leaves its logits, and, unless ``forced``, writes the likeliest token behind
    it. Nothing waits for the host.
    """

    def __init__(self, weights: Weights, state: State, ops: ModuleType, forced: bool = False) -> None:
        self.weights, self.state, self.ops, self.forced = weights, state, ops, forced
        self.graph: torch.cuda.CUDAGraph | None = None

    def step(self) -> None:
        w, s, ops = self.weights, self.state, self.ops
        if s.masks is not None:
            s.masks.take(s.position)
        ops.embed(w, s)
        for layer in range(w.config.num_layers):
            if s.policy is not None:
                ops.route(w, s, layer)
            ops.qkv(w, s, layer)
            ops.attend(w, s, layer)
            ops.o(w, s, layer)
            ops.gate_up(w, s, layer)
            ops.down(w, s, layer)
        ops.head(w, s)
        s.position += 1
        if not self.forced:
            s.tokens.index_copy_(0, s.position, s.logits.argmax(0, keepdim=True))

    def capture(self) -> None:
        """Records a step as a CUDA graph, where there is CUDA; spoils the state."""
        if self.weights.device.type != "cuda":
            return
        self.state.reset()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step()

    def run(self, steps: int) -> None:
        for _ in range(steps):
            if self.graph is None:
                self.step()
            else:
                self.graph.replay()

    def prefill(self, prompt: int) -> None:
        """The first ``prompt`` tokens at once, from an empty state; the token behind them is written.

        Every module is computed for every token and masked where it is skipped: on a GPU, gathering the tokens of each module
        would have to wait for the host. INT4 weights are dequantised for each product. Channels are never masked.
        """
        w, s, c = self.weights, self.state, self.weights.config
        kv_heads, group, dim = c.num_kv_heads, c.queries_per_kv_head, c.head_dim
        h = w.embedding[s.tokens[:prompt]].float()
        cos, sin = s.rope[:prompt, 0, None], s.rope[:prompt, 1, None]
        rows = torch.arange(prompt, device=w.device)
        for number, layer in enumerate(w.layers):
            execute = self._routed(number, h)
            x = self._normed(h)
            q, k, v = functional.linear(x, layer.qkv.plain(w.dtype)).split(
                [c.num_heads * dim, kv_heads * dim, kv_heads * dim], 1
            )
            k = plain.rotated(k.view(prompt, kv_heads, dim).float(), cos, sin).to(w.dtype)
            q = plain.rotated(q.view(prompt, c.num_heads, dim).float(), cos, sin).to(w.dtype)
            place = s.place[number, :prompt].long()
            write = torch.ones_like(execute[0]) if s.policy in (None, "dense") else execute[0]
            # Of tokens that share a place the one that wrote it is the same token at an earlier layer.
            for pool, new in ((s.keys, k), (s.values, v.view(prompt, kv_heads, dim))):
                pool.index_copy_(0, place, torch.where(write[:, None, None], new, pool.index_select(0, place)))
            keys, values = (
                pool.index_select(0, place).repeat_interleave(group, 1).transpose(0, 1) for pool in (s.keys, s.values)
            )
            mixed = functional.scaled_dot_product_attention(q.transpose(0, 1)[None], keys[None], values[None], is_causal=True)[
                0
            ]
            mixed = mixed.transpose(0, 1).reshape(prompt, -1)
            h += torch.where(execute[0, :, None], functional.linear(mixed, layer.o.plain(w.dtype)), 0).float()
            gate, up = functional.linear(self._normed(h), layer.gate_up.plain(w.dtype)).chunk(2, 1)
            fed = functional.linear(functional.silu(gate) * up, layer.down.plain(w.dtype))
            h += torch.where(execute[1, :, None], fed, 0).float()
        s.h.copy_(h[-1])
        s.position.fill_(prompt)
        self.ops.head(w, s)
        if not self.forced:
            s.tokens.index_copy_(0, rows[-1:] + 1, s.logits.argmax(0, keepdim=True))

    def _normed(self, h: torch.Tensor) -> torch.Tensor:
        scale = (h.square().mean(1, keepdim=True) + self.weights.config.rms_norm_eps).rsqrt()
        return (h * scale).to(self.weights.dtype)

    def _routed(self, layer: int, h: torch.Tensor) -> torch.Tensor:
        """bool (2, tokens) of a layer; takes places for the entries."""
        s, prompt = self.state, len(h)
        if s.policy is None:
            return torch.ones(2, prompt, dtype=torch.bool, device=h.device)
        if s.trace is not None:
            execute = s.trace[layer, :, :prompt] != 0
        else:
            execute = (self.weights.layers[layer].router.float() @ h.T) >= 0
            if layer == 0:
                execute[0] = True
        s.taken[layer] += execute.sum(1)
        if s.policy == "reuse":
            new = s.entries + execute[0].cumsum(0).int() - 1
            s.place[layer, :prompt] = torch.where(execute[0], new, s.place[max(layer - 1, 0), :prompt])
            s.entries += execute[0].sum().int()
        return execute
