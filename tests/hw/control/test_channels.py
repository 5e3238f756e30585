"""Runs of weights are the tiles of the channel streams that the compiler lays out."""

from __future__ import annotations

import dataclasses
import random

import pytest
from amaranth.hdl import Elaboratable, Module

from hw.control.channels import ChannelFetch
from hw.memory.reader import RunQueue
from skipopu.channel_stream import ChannelStream
from skipopu.isa.spec import BLOCK_ROWS, matmul_shape
from skipopu.machine.config import Machine
from skipopu.numerics.formats import BY_NAME
from tests.hw.bench import exercise

GROUP = 64


class Bench(Elaboratable):
    """The unit with the ports' queues, of which none may overflow."""

    def __init__(self, machine: Machine) -> None:
        self.fetch = ChannelFetch(machine)
        self.queues = [RunQueue(machine) for _ in range(machine.ports)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.fetch = self.fetch
        for p, (queue, runs) in enumerate(zip(self.queues, self.fetch.runs, strict=True)):
            m.submodules[f"queue_{p}"] = queue
            m.d.comb += [queue.push.eq(runs.valid), queue.run.eq(runs.payload), runs.ready.eq(queue.room)]
        return m


@pytest.mark.parametrize("ports", [1, 3])
def test_runs(ports: int) -> None:
    """Of all formats; the last round is of as many ports as have a block in it."""
    machine = dataclasses.replace(Machine.load("tiny"), stationary=True, ports=ports, formats=tuple(BY_NAME))
    dut, source = Bench(machine), random.Random(1)
    requests, expected = [], {queue.runs: [] for queue in dut.queues}
    for rows in [BLOCK_ROWS * ports, *(source.randrange(1, 12 * BLOCK_ROWS * ports) for _ in range(12))]:
        shape, address, groups = matmul_shape(rows, ports), source.getrandbits(30), source.randrange(1, 40)
        weights = source.choice(machine.weight_formats)
        laid = ChannelStream(rows, groups, GROUP, ports, machine.weight_lanes, weights)
        request = {"address": address, "groups": groups, "rounds": shape["rounds"], "ports": shape["ports"]}
        requests.append(request | {"two_digits": weights.two_digits, "zero_points": weights.zero_points})
        for port, queue in enumerate(dut.queues):
            beat = address * 64 // machine.beat_bytes
            for tile in laid.port_tiles(port):
                count = groups * laid.group_bytes(tile) // machine.beat_bytes
                expected[queue.runs].append({"beat": beat, "count": count})
                beat += count
    exercise(dut, {dut.fetch.issue: requests}, expected, constants=[(dut.fetch.group, GROUP)])
