"""What attention's ports are told, and what they find."""

from __future__ import annotations

from amaranth.hdl import signed

from hw.arithmetic.pipeline import bits_for_index
from hw.component import Bundle, gives
from hw.kv.soft_cap import CappedStep
from hw.kv.softmax import SoftmaxStep
from hw.kv.stationary.walk import HeldStep, Taken
from hw.kv.walk import KvStep
from hw.pe.dot import PROBABILITY_BITS
from hw.widths import POSITION_BITS, TOKEN_BITS
from skipopu.machine.config import QUERY_LANES, TOGETHER, Machine

EXPONENT_BITS = 5  # of FP16
EARLIEST = -(1 << POSITION_BITS)  # before any token
EARLIEST_SHAPE = signed(POSITION_BITS + 1)


class Lockstep(Bundle):
    """What all ports are told, seen by who tells them."""

    def __init__(self, machine: Machine) -> None:
        self.position = gives(POSITION_BITS, "token of slot 0")
        if machine.window:
            self.earliest = gives(EARLIEST_SHAPE, "token that its window begins with, before the first one if with none")
        if machine.stationary:
            self.kv_step = gives(HeldStep(machine), "what all ports do")
            self.taken = gives(Taken(machine).size, "a Taken, of sums of keys: one wire, as that of capped scores")
            self.together = gives(TOGETHER, "logarithm of the most entries of a round of values")
        else:
            self.kv_step = gives(KvStep(machine), "what all ports do")
        self.softmax_step = gives(SoftmaxStep(machine), "the probability that all ports make")
        self.query_exponents = gives(8 * QUERY_LANES, "exponents of the step's queries, a cycle after it")
        if machine.soft_cap:
            # One wire: with its fields' names for every port the Verilog would be a fiftieth longer.
            self.capped = gives(CappedStep(machine).size, "a CappedStep; at once without a cap")
        self.maximum = gives(
            32, "largest score of the softmax step's query, FP32, two cycles after it; capped, after that step"
        )
        self.shared_exponent = gives(EXPONENT_BITS, "largest exponent of V that it sees, with that")
        super().__init__()


class Work(Bundle):
    """What one port works on, seen by who hands it over."""

    def __init__(self, machine: Machine) -> None:
        word = bits_for_index(machine.score_entries // QUERY_LANES)
        if not machine.stationary:
            self.kv_beat = gives(machine.port_bits, "beat of the present entry that the step works on")
        self.token = gives(TOKEN_BITS, "the present entry's token")
        self.score = gives(word, "its first score word")
        self.softmax_score = gives(word, "first score word of the entry whose probabilities are made")
        self.working = gives(1, "the port takes part in the round of keys or values")
        self.weighing = gives(1, "it takes part in the round of probabilities")
        super().__init__()


class Scores(Bundle):
    """What one port found."""

    def __init__(self, machine: Machine) -> None:
        lanes = 1 if machine.stationary else QUERY_LANES
        self.score_keys = gives(32 * lanes, "keys of the queries' scores in the order of numbers, 0 where hidden")
        self.value_exponents = gives(EXPONENT_BITS * lanes, "exponents of the head's V, 0 where hidden, with them")
        self.weight = gives(PROBABILITY_BITS, "probability of the softmax step before its shift, 0 where hidden")
        super().__init__()
