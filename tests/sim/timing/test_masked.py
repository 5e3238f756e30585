"""Products with thresholds in the timing engine: what is fetched and multiplied, group by group."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from compiler.frontend.shapes import outline
from compiler.pipeline import compile_checkpoint
from sim.result import Routed
from sim.timing import engine as timing
from sim.timing.costs import Costs
from sim.timing.masked import Masked, masked, pieces_of, segments
from sim.timing.masks import Drawn
from sim.timing.product import first_beats
from sim.timing.stationary import Group, Tile, Tiles
from skipopu.machine.config import Machine
from skipopu.masks import channels
from skipopu.program.run import Run

TINY = Machine.load("tiny-masks")


@st.composite
def products(draw: st.DrawFn) -> Masked:
    """Of one to three tiles, beats of one to four channels, groups of one or two parts; some have leading groups."""
    groups, group = draw(st.integers(1, 4)), draw(st.sampled_from([8, 32, 128, 256]))
    tiles = []
    for _ in range(draw(st.integers(1, 3))):
        each = draw(st.sampled_from([1, 2, 4]))
        parts = tuple(min(128, group - first) // each for first in range(0, group, 128))
        tiles.append(Tile(draw(st.integers(1, 2)), groups, Group(4 // each, parts), 16 // each, 4, 32))
    active = np.random.default_rng(draw(st.integers(0, 99))).random((groups, group)) < draw(st.sampled_from([0, 0.1, 0.6, 1]))
    machine = dataclasses.replace(TINY, weight_fifo=draw(st.sampled_from([64, 256])))
    return masked(machine, group, Tiles(tuple(tiles), draw(st.integers(1, 4)), 64, 2), active, 1, draw(st.booleans()))


@given(products())
def test_pieces_are_the_beats_that_are_needed(product: Masked) -> None:
    for tile, whole in product.alike:
        pieces, asked = pieces_of(product, tile, whole), whole * tile.group.beats
        found = np.concatenate([np.arange(asked), *(np.arange(p.beat, p.beat + p.beats) for p in pieces)])
        codes = product.active.reshape(len(product.active), sum(tile.group.parts), -1).any(-1)
        wanted = np.concatenate([np.ones((len(codes), tile.group.head), bool), codes], 1)
        wanted[:whole] = True
        assert np.array_equal(found, np.flatnonzero(wanted))
        assert product.tile_beats(tile, whole) == wanted.sum() == asked + sum(p.beats for p in pieces)


def test_leading_groups_are_a_quarter_of_what_is_asked_for_ahead() -> None:
    """Whole groups of the first tile alone; of a product that goes on behind them, and whose mask is not known."""
    machine, tile = Machine.load("u280-masks"), Tile(2, 3, Group(4, (128,)), 16, 4, 32)
    tiles, active = Tiles((tile, tile), 1, 64, 32), np.zeros((3, 128), bool)
    own = masked(machine, 128, tiles, active, 1)
    assert [(each.times, whole) for each, whole in own.alike] == [(1, 1), (1, 0), (2, 0)]
    assert own.beats == 4 * 3 * 4 + 128
    for same in (
        masked(machine, 128, tiles, active, 1, again=True),
        masked(dataclasses.replace(machine, weight_fifo=256), 128, tiles, active, 1),
    ):
        assert same.beats == 4 * 3 * 4
    assert not masked(machine, 128, tiles, active[:1], 1).leading


def test_what_is_asked_for_before_a_masked_product_begins() -> None:
    """Thresholds of 32 groups in four ports, 4 beats each, and a leading group of 4 beats of scales and 128 channels."""
    fields = {"rounds": 16, "ports": 32, "spare": 0, "groups": 32, "format": 0, "address": 0}
    assert first_beats(Costs(Machine.load("u280-masks")), fields, 128) == 32 + 132


@given(products())
def test_segments_are_all_beats_and_a_step_at_least_of_each_part(product: Masked) -> None:
    every = list(segments(product))
    assert sum(s.beats for s in every) == product.beats
    assert sum(tile.times for tile, _ in product.alike) == sum(tile.times for tile in product.tiles.tiles)
    assert product.tiles.passes * sum(max(1, s.beats) for s in every if s.part) == product.steps
    assert sum(s.ends is not None for s in every) == sum(tile.times for tile in product.tiles.tiles)


def test_drawn_channels_save_time_and_traffic() -> None:
    """Of a model of full width on the large machine, by the share left out; twice the same."""
    checkpoint = outline("llama-3.2-1b")
    layers = checkpoint.config.num_layers
    none = {name: np.zeros((layers, count), np.uint16) for name, count in channels(checkpoint.config).items()}
    machine = Machine.load("u280-masks")
    program = compile_checkpoint(dataclasses.replace(checkpoint, masks=none), machine, context=16)
    run = Run((0,) * 4, 3)
    routed = Routed(tokens=[0] * 3, routing=np.ones((layers, 2, 7), bool))

    def counted(share: float) -> tuple[int, int]:
        at = timing.run(program, run, timing.Options(routed, channels=Drawn(program, share))).at_token
        return at[-1]["CYCLES"] - at[0]["CYCLES"], at[-1]["READ_BEATS"] - at[0]["READ_BEATS"]

    (cycles, beats), (fewer, less) = counted(0.0), counted(0.4)
    assert fewer < 0.85 * cycles
    assert less < 0.85 * beats
    assert counted(0.4) == (fewer, less)
