"""Builds the graph of a Llama checkpoint with routers."""

from __future__ import annotations

import numpy as np

from compiler.frontend.checkpoint import Checkpoint, Router
from compiler.graph.ops import Graph, Op, Place, Value, Weights
from skipopu.isa.spec import Epilogue, TokenList


def build(checkpoint: Checkpoint, kv: str, logits: bool, group: int) -> Graph:
    """Graph with the checkpoint's own float32 weights, rows in the checkpoint's order (see the passes)."""
    config, tensors = checkpoint.config, checkpoint.tensors
    hidden, ffn = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim

    def stacked(*names: str) -> list[np.ndarray]:
        return [
            np.concatenate([tensors[f"model.layers.{layer}.{name}.weight"] for name in names])
            for layer in range(config.num_layers)
        ]

    h = Value("residual", Place.BUFFER, hidden)
    x = Value("aligned residual", Place.ACTIVATION, hidden, group)
    route = Value("router sums", Place.BUFFER, 4)
    lists = Value("token lists", Place.STATE, 2)
    key_value = Value("k, v", Place.BUFFER, 2 * keys)
    query = Value("q", Place.BUFFER, queries)
    aligned_query = Value("aligned q", Place.QUERY, queries, config.head_dim)
    entries = Value("kv map", Place.STATE, 1)
    mixed = Value("attention", Place.BUFFER, queries)
    aligned_mixed = Value("aligned attention", Place.ACTIVATION, queries, group)
    fed = Value("swiglu", Place.BUFFER, ffn)
    aligned_fed = Value("aligned swiglu", Place.ACTIVATION, ffn, group)
    every, attend, feed = TokenList.ALL, TokenList.ATTENTION, TokenList.FFN
    always = Router(np.zeros(hidden, np.float32), 0.0)
    routers = checkpoint.routers or [(always, always)] * config.num_layers
    stored = every if kv == "dense" else attend
    body = [
        Op("align", "align residual, 1/rms", every, (h,), (x,), norm=True),
        Op(
            "matmul",
            "routers",
            every,
            (x,),
            (route,),
            Weights("router", [np.stack([r.weight for r in both]) for both in routers], "split", split=True),
        ),
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
        Op("kvwrite", "store K and V entries", stored, (key_value, lists), (entries,)),
        Op(
            "matmul",
            "self_attn.q_proj",
            attend,
            (x, lists),
            (query,),
            Weights("q", stacked("self_attn.q_proj"), "rope"),
            Epilogue.ROPE,
            norm=True,
            rope_rows=queries,
        ),
        Op("align", "align queries", attend, (query, lists), (aligned_query,)),
        Op("attend", "attention", attend, (aligned_query, entries, lists), (mixed,)),
        Op("align", "align attention", attend, (mixed, lists), (aligned_mixed,)),
        Op(
            "matmul",
            "self_attn.o_proj + residual",
            attend,
            (aligned_mixed, h, lists),
            (h,),
            Weights("o", stacked("self_attn.o_proj"), "heads"),
            Epilogue.RESIDUAL,
        ),
        Op("align", "align residual, 1/rms", feed, (h, lists), (x,), norm=True),
        Op(
            "matmul",
            "mlp.gate_proj, mlp.up_proj, SwiGLU",
            feed,
            (x, lists),
            (fed,),
            Weights("gate_up", stacked("mlp.gate_proj", "mlp.up_proj"), "gate_up"),
            Epilogue.SWIGLU,
            norm=True,
        ),
        Op("align", "align SwiGLU", feed, (fed, lists), (aligned_fed,)),
        Op(
            "matmul",
            "mlp.down_proj + residual",
            feed,
            (aligned_fed, h, lists),
            (h,),
            Weights("down", stacked("mlp.down_proj")),
            Epilogue.RESIDUAL,
        ),
    ]
    head = tensors["model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"]
    scores = Value("logits", Place.BUFFER, config.vocab_size)
    tail = every if logits else TokenList.LAST
    epilogue = [
        Op("align", "align residual, final 1/rms", tail, (h,), (x,), norm=True),
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
    return Graph([Op("embed", "token embedding, rotary rows", every, (), (h,))], body, epilogue, config.num_layers)
