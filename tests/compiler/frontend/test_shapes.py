"""Shapes without weights."""

from __future__ import annotations

import pytest

from compiler.frontend.shapes import ROUTERS, outline
from compiler.pipeline import compile_checkpoint
from skipopu.machine.config import Machine
from skipopu.numerics.formats import FORMATS, Format
from tests.support import random_checkpoint, small_config


@pytest.mark.parametrize("routers", ROUTERS)
@pytest.mark.parametrize("format", FORMATS)
def test_programs_of_shapes_are_those_of_weights(format: Format, routers: str) -> None:
    config, options = small_config(), {"context": 16, "group": 32, "weights": format.name}
    of_shape = compile_checkpoint(outline("", routers, config), Machine.load("tiny"), **options)
    of_weights = compile_checkpoint(random_checkpoint(config, routers=routers), Machine.load("tiny"), **options)
    assert of_shape.weights == format.name
    assert of_shape.instructions == of_weights.instructions
    assert of_shape.matrices == of_weights.matrices
    assert of_shape.port_bytes == of_weights.port_bytes
