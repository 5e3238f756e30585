"""Heads that are no whole words of a machine, and shapes of popular models that its limits let pass."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from compiler.frontend.shapes import outline
from compiler.frontend.tensors import Tensors
from compiler.passes.heads import widen
from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from sim.reference import engine as reference
from sim.reference.model import SkipLlama
from sim.reference.state import load_hf_state_dict
from sim.result import logits_of
from skipopu.machine.config import Machine
from skipopu.model_config import ModelConfig
from skipopu.program.program import Program
from skipopu.program.run import Run
from skipopu.rope import Rope
from tests.support import random_checkpoint, said, small_config

TINY = Machine.load("tiny")
WIDE = dataclasses.replace(TINY, port_bits=256, vector_lanes=16)


@pytest.mark.parametrize("changes", [{}, {"head_dim": 18}, {"biases": ("q", "k", "v")}, {"rope": (Rope((1.0, 0.3)),)}])
def test_padded_heads_compute_the_same(changes: dict[str, object], tmp_path: Path) -> None:
    config = small_config(**{"head_dim": 20, "weight_group": 64, **changes})
    program = compile_checkpoint(random_checkpoint(config, 1, routers=False), WIDE, context=40, weights="int8")
    program = Program.load(program.save(tmp_path))
    assert program.model.head_dim == 32
    run = Run(tuple(range(1, 20)), 6)
    assert functional.run(program, run).tokens == reference.run(program, run).tokens
    if config.head_dim % TINY.vector_lanes == 0:
        # Groups of O's weights hold other columns: much the same numbers, and the same tokens for some time.
        narrow = compile_checkpoint(random_checkpoint(config, 1, routers=False), TINY, context=40, weights="int8")
        assert narrow.model.head_dim == config.head_dim
        assert functional.run(program, run).tokens[:3] == functional.run(narrow, run).tokens[:3]


def test_tensors_are_the_checkpoints_and_zeros() -> None:
    checkpoint = random_checkpoint(small_config(head_dim=20, biases=("k",), qk_norm="whole"), 1)
    wide = widen(checkpoint, WIDE)
    assert isinstance(wide.tensors, Tensors)
    assert set(wide.tensors) == set(checkpoint.tensors)
    for name, shape in wide.tensors.shapes.items():
        tensor = wide.tensors[name]
        assert tensor.shape == shape
        assert np.array_equal(tensor[tensor != 0], checkpoint.tensors[name][checkpoint.tensors[name] != 0])
        for rows in (slice(0, 21), slice(25, 31), slice(19, 64, 1)):
            assert np.array_equal(wide.tensors.read(name, rows), tensor[rows])
    assert widen(checkpoint, TINY) is checkpoint


@pytest.mark.parametrize("norm", ["head", "whole"])
def test_norms_of_padded_heads_leave_the_padding_out(norm: str) -> None:
    """Functional engine and reference on the image, and the checkpoint's own numbers, as far as eight bits carry."""
    config = small_config(head_dim=20, num_kv_heads=4, weight_group=64, qk_norm=norm, rms_norm_eps=0.1, biases=("k",))
    checkpoint = random_checkpoint(config, 1, routers=False)
    program = compile_checkpoint(checkpoint, WIDE, logits=True, context=10, weights="int8")
    assert (program.model.head_dim, program.model.counted_head_dim) == (32, 20)
    run = Run(tuple(range(1, 8)), 1)
    seen = logits_of(program, functional.run(program, run), 7)
    theirs = reference.run(program, run)
    assert theirs.tokens == [int(seen[-1].argmax())]
    model = load_hf_state_dict(SkipLlama(config), {n: torch.from_numpy(t) for n, t in checkpoint.tensors.items()}, {})
    with torch.no_grad():
        own = model(torch.tensor([run.prompt]), dense=True).logits[0].numpy()
        image = reference.model_of(program)(torch.tensor([run.prompt]), dense=True).logits[0].numpy()
    assert np.linalg.norm(image - own) < 0.04 * np.linalg.norm(own)
    assert np.linalg.norm(seen - image) < 1e-3 * np.linalg.norm(image)


def test_heads_are_padded_to_what_an_adjust_counts() -> None:
    config = small_config(head_dim=20, num_kv_heads=1, qk_norm="head")
    assert compile_checkpoint(random_checkpoint(config, 1), TINY, context=16).model.head_dim == 24
    assert compile_checkpoint(outline("shape", config=config), TINY, context=16).model.head_dim == 24


def shape(hidden: int, ffn: int, layers: int, heads: int, kv_heads: int, vocabulary: int, dim: int = 128) -> ModelConfig:
    return small_config(
        hidden_size=hidden,
        intermediate_size=ffn,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=dim,
        vocab_size=vocabulary,
        max_positions=4096,
    )


@pytest.mark.parametrize(
    ("target", "config"),
    [
        ("u280", shape(5120, 17920, 40, 40, 10, 100352)),  # Phi-4
        ("u280", shape(8192, 28672, 2, 64, 8, 128256)),  # two of Llama-70B's layers
        ("u55c", shape(4096, 13696, 40, 32, 2, 151552)),  # GLM-4-9B: 16 queries per KV head
        ("u280", shape(2560, 10240, 32, 32, 32, 51200, 80)),  # Phi-2
        ("u280", shape(3584, 8192, 8, 32, 8, 65024, 112)),
        ("u280", shape(3072, 8192, 32, 32, 32, 32064, 96)),  # Phi-3-mini
        ("kv260", shape(1152, 6912, 26, 4, 1, 262144, 256)),  # Gemma 3 1B
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.hidden_size}x{value.head_dim}",
)
def test_shapes_of_popular_models(target: str, config: ModelConfig) -> None:
    program = compile_checkpoint(outline("shape", config=config), Machine.load(target), context=512)
    assert program.model.num_heads == config.num_heads


def test_a_shape_of_ones_own(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    path = tmp_path / "config.json"
    config = shape(8192, 28672, 2, 64, 8, 32000).to_hf()
    path.write_text(json.dumps(config))
    arguments = ["run", "--shape", path, "--target", "u280", "--engine", "timing", "--context", 64]
    code, error = said([*arguments, "--prompt-length", 8, "--max-new", 2], capsysbinary)
    assert code == 0, error
