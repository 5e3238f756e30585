"""Builds the graph of a checkpoint with routers."""

from __future__ import annotations

import numpy as np

from compiler.frontend.checkpoint import Checkpoint
from compiler.frontend.routers import Router
from compiler.frontend.tensors import F32, rows_of
from compiler.graph.adjust import Adjusted, adjusts
from compiler.graph.matrix import Matrix
from compiler.graph.ops import Adjust, Graph, Op, Place, Value, Weights
from skipopu.isa.spec import Epilogue, Finish, TokenList
from skipopu.policy import KvPolicy


def build(checkpoint: Checkpoint, kv: KvPolicy, logits: bool, weighs: bool = True) -> Graph:
    """Graph with the checkpoint's own float32 weights, none of them read, rows in the checkpoint's order (see the passes).

    ``weighs``: a policy looks at the token to decide, at its routers or its norm. Else what a layer executes is known in front of it.
    """
    builder = Builder(checkpoint, kv)
    embed = Op("embed", "token embedding, rotary rows", TokenList.ALL, (), (builder.h, builder.x))
    *summed, decided = builder.routing(1 if not weighs else checkpoint.config.num_layers)
    before, inside = ([], summed) if weighs else ([*summed, builder.awaited(summed[-1])], [])
    body = [*inside, decided, *builder.attention(), *builder.feed_forward()]
    if checkpoint.config.parallel:
        body.append(Op("align", "align the residual", TokenList.ALL, (builder.h,), (builder.x,)))
    return Graph([embed, *before], body, builder.head(logits), checkpoint.config.num_layers)


class Builder:
    """The parts of a layer, and what follows the last one, as operations."""

    def __init__(self, checkpoint: Checkpoint, kv: KvPolicy) -> None:
        self.checkpoint, self.config, self.kv = checkpoint, checkpoint.config, kv
        self.adjusted = Adjusted(checkpoint)
        self.h = Value("residual", Place.BUFFER, self.config.hidden_size)
        self.x = Value("aligned residual", Place.RESIDUAL, self.config.hidden_size)
        self.feed = Value("normalised residual", Place.BUFFER, self.config.hidden_size)
        # In the place of the aligned residual, until the network's results are added.
        self.aligned_feed = Value("aligned normalised residual", Place.RESIDUAL, self.config.hidden_size)
        self.lists = Value("token lists", Place.DISPATCH, 2)

    def matrix(self, *names: str) -> Matrix:
        """The tensors' rows under one another."""
        return Matrix(tuple(rows_of(self.checkpoint.tensors, f"{name}.weight") for name in names))

    def stacked(self, *names: str) -> list[Matrix]:
        """The tensors' rows under one another, per layer."""
        return [self.matrix(*(f"model.layers.{layer}.{name}" for name in names)) for layer in range(self.config.num_layers)]

    def routing(self, layers: int) -> list[Op]:
        """Router sums of ``layers`` layers, zeros where there are no routers, and what is decided by them."""
        hidden, every = self.config.hidden_size, TokenList.ALL
        route = Value("router sums", Place.BUFFER, 4)
        always = Router(np.zeros(hidden, np.float32), 0.0)
        routers = self.checkpoint.routers or [(always, always)] * layers
        body: list[Op] = []
        read, weights = self.x, [np.stack([r.weight for r in both]) for both in routers]
        if width := self.checkpoint.router_width:
            body, read = self.router_hidden(routers, width)
            weights = [_beside(both, width) for both in routers]
        split = Weights("router", [Matrix((rows,)) for rows in weights], "split", split=True)
        return [
            *body,
            Op("matmul", "routers", every, (read,), (route,), split),
            Op("route", "routing bits and token lists", every, (route,), (self.lists,)),
        ]

    def awaited(self, op: Op) -> Op:
        """What the vector unit does no earlier than ``op``; the decisions, which follow, need not wait for the array then."""
        (value,) = op.writes
        return Op("align", f"wait for {value.name}", op.tokens, (value,), (Value("awaited", Place.INNER, value.elements),))

    def router_hidden(self, routers: list[tuple[Router, Router]], width: int) -> tuple[list[Op], Value]:
        """The first layers of both routers under one another, each with rows of zeros to half of ``width``; what they give."""
        layers, hidden = [[r.hidden for r in both if r.hidden is not None] for both in routers], self.config.hidden_size
        value, aligned = Value("router hidden", Place.BUFFER, width), Value("aligned router hidden", Place.INNER, width)
        matrices, biases = [], []
        for both in layers:
            rest = width // 2 - both[0].width
            zeros = np.zeros((rest, hidden), np.float32)
            matrices.append(Matrix(tuple(part for layer in both for part in (layer.weight, zeros)[: 1 + (rest > 0)])))
            biases.append(np.concatenate([np.pad(layer.bias, (0, rest)) for layer in both]))
        ones = [np.ones(width, np.float32)] * len(layers)
        relu = Adjust("router_hidden", ones, biases, relu=True)
        return [
            Op(
                "matmul",
                "routers, hidden layer",
                TokenList.ALL,
                (self.x,),
                (value,),
                Weights("router_hidden", matrices, routing=True),
            ),
            Op("adjust", "routers: bias, ReLU", TokenList.ALL, (value,), (value, aligned), adjust=relu),
        ], aligned

    def attention(self) -> list[Op]:
        config, x, lists = self.config, self.x, self.lists
        queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        key_value = Value("k, v", Place.BUFFER, 2 * keys)
        query = Value("q", Place.BUFFER, queries)
        aligned_query = Value("aligned q", Place.QUERY, queries)
        entries = Value("kv map", Place.STATE, 1)
        mixed = Value("attention", Place.BUFFER, queries)
        aligned_mixed = Value("aligned attention", Place.INNER, queries)
        attend, stored = TokenList.ATTENTION, self.kv.stored
        turned = {name: not adjusts(config, name) for name in "qk"}  # on the way out of the product
        ops = [
            Op(
                "matmul",
                "self_attn.k_proj, self_attn.v_proj",
                stored,
                (x, lists),
                (key_value,),
                Weights("kv", self.stacked("self_attn.k_proj", "self_attn.v_proj"), "kv"),
                Epilogue.ROPE if turned["k"] else Epilogue.STORE,
                norm=config.pre_norm,
                rope_rows=keys if turned["k"] else 0,
            ),
            Op(
                "matmul",
                "self_attn.q_proj",
                attend,
                (x, lists),
                (query, aligned_query) if turned["q"] else (query,),
                Weights("q", self.stacked("self_attn.q_proj"), "rope"),
                Epilogue.ROPE if turned["q"] else Epilogue.STORE,
                norm=config.pre_norm,
                rope_rows=queries if turned["q"] else 0,
            ),
        ]
        for name, tokens, value, aligned, elements, order in (
            ("k", stored, key_value, (), keys, "keys"),
            ("q", attend, query, (aligned_query,), queries, "rope"),
        ):
            if not turned[name]:
                gain = f"self_attn.{name}_norm.weight" if config.qk_norm else None
                ops += self.adjusted.ops(
                    name,
                    f"{name}: {'norm, ' if gain else ''}rotation",
                    tokens,
                    (value, lists),
                    (value, *aligned),
                    elements,
                    bias=f"self_attn.{name}_proj.bias" if name in config.biases else None,
                    gain=gain,
                    heads=config.qk_norm == "head",
                    finish=Finish.ROTATE,
                    order=order,
                )
            if name == "k" and "v" in config.biases:
                bias = "self_attn.v_proj.bias"
                ops += self.adjusted.ops("v", "v: bias", stored, (value, lists), (value,), elements, bias, first=keys)
        return [
            *ops,
            Op("kvwrite", "store K and V entries", stored, (key_value, lists), (entries,)),
            Op("attend", "attention", attend, (aligned_query, entries, lists), (mixed, aligned_mixed)),
            *(self.normed_feed() if config.parallel else []),  # of the residual that attention reads too
            *self.added("o", "self_attn.o_proj", "attention_post_norm", attend, aligned_mixed),
        ]

    def normed_feed(self) -> list[Op]:
        """The norm in front of the feed-forward network, where it has a bias; no other token's aligned residual is written over."""
        if not self.config.ffn_norm_bias:
            return []
        name, reads = "post_attention_layernorm", (self.h, self.lists)
        return self.normed("ffn_norm", "norm of the FFN", TokenList.FFN, reads, (self.feed, self.aligned_feed), name)

    def normed(
        self, name: str, note: str, tokens: TokenList, reads: tuple[Value, ...], writes: tuple[Value, ...], norm: str
    ) -> list[Op]:
        """A norm with a bias of its own, not part of a product."""
        elements, bias, gain = self.config.hidden_size, f"{norm}.bias", f"{norm}.weight"
        return self.adjusted.ops(
            name, note, tokens, reads, writes, elements, bias, gain, norm_first=True, layered=self.lists in reads
        )

    def feed_forward(self) -> list[Op]:
        config, lists, feed = self.config, self.lists, TokenList.FFN
        x, norm = (self.aligned_feed, False) if config.ffn_norm_bias else (self.x, config.pre_norm)
        fed = Value("gated", Place.BUFFER, config.intermediate_size)
        aligned_fed = Value("aligned gated", Place.INNER, config.intermediate_size)
        if config.gated:
            ops = [
                Op(
                    "matmul",
                    "mlp.gate_proj, mlp.up_proj, activation",
                    feed,
                    (x, lists),
                    (fed, aligned_fed),
                    Weights("gate_up", self.stacked("mlp.gate_proj", "mlp.up_proj"), "gate_up"),
                    Epilogue.GATED,
                    norm=norm,
                )
            ]
        else:
            weights = Weights("up", self.stacked("mlp.up_proj"))
            bias = "mlp.up_proj.bias" if "up" in config.biases else None
            ops = [
                Op("matmul", "mlp.up_proj", feed, (x, lists), (fed,), weights, norm=norm),
                *self.adjusted.ops(
                    "up",
                    "activation",
                    feed,
                    (fed, lists),
                    (fed, aligned_fed),
                    config.intermediate_size,
                    bias,
                    finish=Finish.ACTIVATE,
                ),
            ]
        before = [] if config.parallel else self.normed_feed()
        return [*before, *ops, *self.added("down", "mlp.down_proj", "mlp_post_norm", feed, aligned_fed)]

    def added(self, name: str, tensor: str, norm: str, tokens: TokenList, source: Value) -> list[Op]:
        """A product whose results are added to the residual."""
        config, h = self.config, self.h
        weights = Weights(name, self.stacked(tensor), "heads" if name == "o" else "plain")
        aligned = () if config.parallel else (self.x,)  # the whole layer reads one residual
        if not adjusts(config, name):
            reads = (source, h, self.lists)
            return [Op("matmul", f"{tensor} + residual", tokens, reads, (h, *aligned), weights, Epilogue.RESIDUAL)]
        result = Value(f"{name} results", Place.BUFFER, config.hidden_size)
        return [
            Op("matmul", tensor, tokens, (source, self.lists), (result,), weights),
            *self.adjusted.ops(
                name,
                f"{tensor}{': norm' if config.post_norm else ''} + residual",
                tokens,
                (result, h, self.lists),
                (h, *aligned),
                config.hidden_size,
                bias=f"{tensor}.bias" if name in config.biases else None,
                gain=f"{norm}.weight" if config.post_norm else None,
                finish=Finish.RESIDUAL,
            ),
        ]

    def head(self, logits: bool) -> list[Op]:
        config, read, tail = self.config, self.x, TokenList.ALL if logits else TokenList.LAST
        matrix = self.matrix("model.embed_tokens" if config.tie_word_embeddings else "lm_head")
        scores = Value("logits", Place.BUFFER, config.vocab_size)
        ops: list[Op] = []
        if config.final_bias:
            last = Value("last", Place.BUFFER, config.hidden_size)
            read = Value("aligned last", Place.INNER, config.hidden_size)
            ops = self.normed("final", "last norm", tail, (self.h,), (last, read), "norm")
        ops.append(
            Op(
                "matmul",
                "lm_head, argmax",
                tail,
                (read,),
                (scores,) if logits else (),
                Weights("head", [matrix]),
                Epilogue.STORE if logits else Epilogue.NONE,
                norm=not config.final_bias,
                argmax=True,
            )
        )
        if logits:
            ops.append(Op("store", "logits", tail, (scores,)))
        return ops


def _beside(both: tuple[Router, Router], width: int) -> F32:
    """(2, width): the second layers of two routers, each behind its own half of the first ones' results."""
    result = np.zeros((2, width), np.float32)
    for module, router in enumerate(both):
        first = module * width // 2
        result[module, first : first + len(router.weight)] = router.weight
    return result
