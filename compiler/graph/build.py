"""Builds the graph of a Llama checkpoint with routers."""

from __future__ import annotations

import numpy as np

from compiler.frontend.checkpoint import Checkpoint, Router
from compiler.frontend.tensors import rows_of
from compiler.graph.matrix import Matrix
from compiler.graph.ops import Graph, Op, Place, Value, Weights
from skipopu.isa.spec import Epilogue, TokenList
from skipopu.policy import KvPolicy


def build(checkpoint: Checkpoint, kv: KvPolicy, logits: bool) -> Graph:
    """Graph with the checkpoint's own float32 weights, none of them read, rows in the checkpoint's order (see the passes)."""
    config, tensors = checkpoint.config, checkpoint.tensors
    hidden, ffn = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim

    def matrix(*names: str) -> Matrix:
        return Matrix(tuple(rows_of(tensors, f"{name}.weight") for name in names))

    def stacked(*names: str) -> list[Matrix]:
        return [matrix(*(f"model.layers.{layer}.{name}" for name in names)) for layer in range(config.num_layers)]

    h = Value("residual", Place.BUFFER, hidden)
    x = Value("aligned residual", Place.RESIDUAL, hidden)
    route = Value("router sums", Place.BUFFER, 4)
    lists = Value("token lists", Place.STATE, 2)
    key_value = Value("k, v", Place.BUFFER, 2 * keys)
    query = Value("q", Place.BUFFER, queries)
    aligned_query = Value("aligned q", Place.QUERY, queries)
    entries = Value("kv map", Place.STATE, 1)
    mixed = Value("attention", Place.BUFFER, queries)
    aligned_mixed = Value("aligned attention", Place.INNER, queries)
    fed = Value("gated", Place.BUFFER, ffn)
    aligned_fed = Value("aligned gated", Place.INNER, ffn)
    every, attend, feed = TokenList.ALL, TokenList.ATTENTION, TokenList.FFN
    always = Router(np.zeros(hidden, np.float32), 0.0)
    routers = checkpoint.routers or [(always, always)] * config.num_layers
    stored = kv.stored
    body: list[Op] = []
    read, weights = x, [Matrix((np.stack([r.weight for r in both]),)) for both in routers]
    if width := 2 * checkpoint.router_hidden:
        first, read = Value("router hidden", Place.BUFFER, width), Value("aligned router hidden", Place.INNER, width)
        zero = np.float32(0)
        layer = Weights("router_hidden", [Matrix((np.broadcast_to(zero, (width, hidden)),))] * config.num_layers)
        body.append(Op("matmul", "routers, hidden layer", every, (x,), (first, read), layer))
        weights = [Matrix((np.broadcast_to(zero, (2, width)),))] * config.num_layers
    body += [
        Op("matmul", "routers", every, (read,), (route,), Weights("router", weights, "split", split=True)),
        Op("route", "routing bits and token lists", every, (route,), (lists,)),
        Op(
            "matmul",
            "self_attn.k_proj, self_attn.v_proj",
            stored,
            (x, lists),
            (key_value,),
            Weights("kv", stacked("self_attn.k_proj", "self_attn.v_proj"), "kv"),
            Epilogue.ROPE,
            norm=True,
            rope_rows=keys,
        ),
        Op(
            "matmul",
            "self_attn.q_proj",
            attend,
            (x, lists),
            (query, aligned_query),
            Weights("q", stacked("self_attn.q_proj"), "rope"),
            Epilogue.ROPE,
            norm=True,
            rope_rows=queries,
        ),
        Op("kvwrite", "store K and V entries", stored, (key_value, lists), (entries,)),
        Op("attend", "attention", attend, (aligned_query, entries, lists), (mixed, aligned_mixed)),
        Op(
            "matmul",
            "self_attn.o_proj + residual",
            attend,
            (aligned_mixed, h, lists),
            (h, x),
            Weights("o", stacked("self_attn.o_proj"), "heads"),
            Epilogue.RESIDUAL,
        ),
        Op(
            "matmul",
            "mlp.gate_proj, mlp.up_proj, activation",
            feed,
            (x, lists),
            (fed, aligned_fed),
            Weights("gate_up", stacked("mlp.gate_proj", "mlp.up_proj"), "gate_up"),
            Epilogue.GATED,
            norm=True,
        ),
        Op(
            "matmul",
            "mlp.down_proj + residual",
            feed,
            (aligned_fed, h, lists),
            (h, x),
            Weights("down", stacked("mlp.down_proj")),
            Epilogue.RESIDUAL,
        ),
    ]
    head = matrix("model.embed_tokens" if config.tie_word_embeddings else "lm_head")
    scores = Value("logits", Place.BUFFER, config.vocab_size)
    tail = every if logits else TokenList.LAST
    epilogue = [
        Op(
            "matmul",
            "lm_head, argmax",
            tail,
            (x,),
            (scores,) if logits else (),
            Weights("head", [head]),
            Epilogue.STORE if logits else Epilogue.NONE,
            norm=True,
            argmax=True,
        ),
    ]
    if logits:
        epilogue.append(Op("store", "logits", tail, (scores,)))
    return Graph([Op("embed", "token embedding, rotary rows", every, (), (h, x))], body, epilogue, config.num_layers)
