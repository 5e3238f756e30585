"""The ends of what a machine description accepts, narrow and wide, against the functional engine."""

from __future__ import annotations

import pytest

from compiler.pipeline import compile_checkpoint
from sim.rtl import engine as rtl
from skipopu.machine.config import Machine
from skipopu.program.run import Run
from tests.agreement.test_rtl import agree
from tests.support import random_checkpoint, small_config

pytestmark = [pytest.mark.rtl, pytest.mark.timeout(600)]

# Heads of 64 beats, or a header of 16; every burst one beat; a history buffer that holds such an entry.
NARROW = {
    "tokens": 1,
    "buffer": 65536,
    "activation": 8192 + 32,
    "query": 8192,
    "map_entries": 4,
    "score_entries": 256 * 4,
    "kv_heads": 64,
    "query_group": 1,
    "burst": 1,
    "write_burst": 1,
    "weight_fifo": 2,
    "kv_fifo": 2,
    "history": 4096,
    "trace_records": 64,
}
# One 512-bit port: heads of 8 beats, 16 of them to a KV head, the narrowest vector unit, pages of a burst each.
WIDE = {
    "port_bits": 512,
    "tokens": 5,
    "buffer": 65536,
    "activation": 8192,
    "query": 4096,
    "kv_heads": 1,
    "query_group": 16,
    "burst": 64,
    "write_burst": 1,
    "weight_fifo": 131,
    "kv_fifo": 129,
    "weights_in_flight": 128,
}


def machine(**changes: object) -> Machine:
    return Machine.from_dict({**Machine.load("mono").to_dict(), "name": "extreme", **changes})


@pytest.mark.parametrize(("heads", "head_dim"), [(64, 8), (32, 256)])
def test_the_narrowest_ports(heads: int, head_dim: int) -> None:
    shape = {"hidden_size": 16, "intermediate_size": 16, "vocab_size": 16, "max_positions": 4, "weight_group": 16}
    config = small_config(**shape, num_heads=heads, num_kv_heads=heads, head_dim=head_dim, num_layers=1)
    program = compile_checkpoint(random_checkpoint(config, 1), machine(**NARROW), "reuse", context=4)
    agree(program, Run((3, 5), 2, check=True), rtl.Memory(stall=20, seed=3))


@pytest.mark.parametrize("head_dim", [8, 256])
def test_the_widest_port(head_dim: int) -> None:
    shape = {"hidden_size": 130, "intermediate_size": 140, "vocab_size": 40, "max_positions": 40}
    config = small_config(**shape, num_heads=16, num_kv_heads=1, head_dim=head_dim)
    program = compile_checkpoint(random_checkpoint(config, 1), machine(**WIDE), "reuse", context=40)
    agree(program, Run(tuple(range(1, 9)), 3, check=True), rtl.Memory(stall=20, seed=3))
