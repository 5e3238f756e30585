"""Lengths of the hardware's pipelines, in cycles: units are built to them, the timing engine counts with them.

A unit's own length is that of its parts and the registers between them; where a unit adds up what it really has, it asserts the sum.
"""

from __future__ import annotations

from typing import TypeVar

from skipopu.isa.spec import BLOCK_ROWS
from skipopu.machine.config import Machine
from skipopu.numerics.adjust import PARTIALS

T = TypeVar("T")

# Arithmetic: operands to result.
MULTIPLIER = 2  # the primitive's multiplier and output registers
MULTIPLY = 2  # FP32
ADD = 4  # FP32
ADD_POSITIVE = 3  # FP32, none of them negative
FROM_INTEGER = 3  # an integer and an exponent to FP32
QUADRATIC = 5  # a table's segment to its polynomial: the memory and its output register, two multiplications, the sum
SYMMETRIC = 1 + QUADRATIC + FROM_INTEGER  # FP32 to a function with f(-x) = 1 - f(x) of it
LARGEST = 2  # the largest of a word's numbers
SIGNATURE = 4  # a write to its instruction's signature

FAULT = 2  # a unit's fault to the run's status

# The array.
OPERANDS = 3  # a step to its operands: memory, choice and bus registers
PRODUCT = OPERANDS + 1 + MULTIPLIER  # a step to its products
STEP_OPERANDS = 1 + OPERANDS  # of a stationary array, whose own operands take a cycle more
STEP_SUM = 4  # operands to a multiplier's sum: two registers in front of it, one in it, the sum
PUT_ASIDE = STEP_OPERANDS + STEP_SUM + 1  # a sum's last step to its being taken
FACTOR = MULTIPLY + SYMMETRIC  # a scaled result to its activation's factor
FINISH = MULTIPLY + FACTOR + MULTIPLY + ADD  # an accumulator's value to the result
EPILOGUE = 2 + FINISH  # an accumulator's address to the result
RESULT_WRITTEN = EPILOGUE + 1  # to its write to the buffer

# Alignment.
TRACKED = 1 + LARGEST + 2  # a word's write that completes a group to the group, out of its queue
ALIGN_WRITE = 4  # a word's read to the write of its mantissas
NORM = MULTIPLY + ADD + QUADRATIC + FROM_INTEGER  # a square sum to its 1/rms
SLOT_NORM = 1 + NORM  # a slot to that of its square sum

# KV entries.
TO_HALF = 1  # FP32 to FP16
HALVES = 2 + TO_HALF + 1  # a word's read to its FP16 numbers
KV_EXPONENT = HALVES + LARGEST + 1  # a head's last read to its exponent

# Attention.
WEIGHT = 2 + ADD + 1 + QUADRATIC + 1  # a softmax step to its probability
WEIGHED = WEIGHT + 2  # to the cycle in which a step of values may use it
SOFT_CAP = SYMMETRIC + MULTIPLY  # a score to the capped one: what a program with a cap adds to both
QUOTIENT = 1 + FROM_INTEGER + QUADRATIC + FROM_INTEGER  # a division's step to 1 / total
DIVIDE = QUOTIENT + MULTIPLY  # to its word


# ADJUST.
ADJUST = 2 * MULTIPLY + ADD + FINISH  # an element to its result
SQUARED_IN = MULTIPLY + ADD + 1  # an element to the first cycle in which its partial sum can be read
HALVED = 1 + ADD  # the last addition of a level of the partial sums to the first of the next


def apart(machine: Machine) -> int:
    """Registers on those ways between ports' units and the rest that no work waits for: several ports may stand on several dies. Those that stand
    on one, as the KV260's, have them too."""
    return int(machine.ports > 1)


def sized(machine: Machine) -> int:
    """A product's first attempt to its size having been held against the memory. An ECP5's block RAM takes 6 ns and its multiplier 4: between
    the program's memory and the product there is a register more."""
    return 2 if machine.multiplier == "18x18" else 1


def told(machine: Machine) -> int:
    """Registers between what says what all ports do and the ports: what they have to say is seen that much later."""
    return apart(machine)


def answered(machine: Machine) -> int:
    """What all ports of a stationary array are told to their answer being counted."""
    return told(machine) + 2


def queued(machine: Machine) -> int:
    """Of weights, a run handed over to a port to its being its reader's: those of a stationary array are short, and are kept in front of it."""
    return 2 if machine.stationary else 0


def between_rounds(machine: Machine) -> int:
    """Cycles without a step between two of attention's rounds, of a stationary array those of probabilities: the ports are told of the end, and
    what follows is known where rounds start."""
    return 1 + 2 * told(machine)


def squares(machine: Machine) -> int:
    """A word's mantissas to the sum of their group's squares, this word's included."""
    return 1 + tree(machine.vector_lanes) + 1


def squared(machine: Machine) -> int:
    """A word's mantissas to its group's square sum in the slot's total."""
    return squares(machine) + FROM_INTEGER + ADD_POSITIVE


def mantissas_summed(machine: Machine) -> int:
    """A word's mantissas written to their group's sum, this word's included, being there for a read."""
    return tree(machine.vector_lanes) + 1


def aligned(machine: Machine, residual: bool) -> int:
    """Of a slot's last group, its last word's read to everything that follows from it being kept."""
    return ALIGN_WRITE + (squared(machine) if residual else mantissas_summed(machine))


def adjust_lanes(machine: Machine) -> int:
    """Elements per cycle of ADJUST: port 0 brings gains and biases of no more with two bursts under way."""
    return min(machine.vector_lanes, max(2, machine.port_bits // 128))


def adjust_reduce(machine: Machine) -> int:
    """Cycles from the last word of squares to 1/rms: halves of the partial sums are added until one is left."""
    lanes = adjust_lanes(machine)
    return SQUARED_IN + sum(max(1, half // lanes) + HALVED for half in halves()) + NORM


def halves() -> tuple[int, ...]:
    """How many sums each level of :func:`skipopu.numerics.adjust.sum_of_squares` leaves."""
    return tuple(PARTIALS >> level for level in range(1, PARTIALS.bit_length()))


def tree(leaves: int) -> int:
    """Levels of a balanced tree of registered additions."""
    return (leaves - 1).bit_length()


def product(machine: Machine) -> int:
    """A step of attention to its products."""
    return PRODUCT


def accumulated(machine: Machine) -> int:
    """A group's last step, in a stationary array the choice of a sum, until its accumulator can be read."""
    summed = 1 + tree(machine.kv_lanes) + 2 if machine.stationary else PRODUCT + tree(machine.weight_lanes) + 1
    return summed + 2 + FROM_INTEGER + ADD + 2


def drain(machine: Machine, slots: int, ports: int) -> int:
    """Cycles in which a round's results of ``ports`` blocks leave the array."""
    return -(-ports // machine.drain_ports) * slots * BLOCK_ROWS // 2 // machine.drain_pairs


def argmax(results: int) -> int:
    """As many results at once to the largest so far."""
    return 1 + tree(results) + 1


def results_known(machine: Machine) -> int:
    """A result to all that is kept of it: its signature, and whether it is the largest."""
    return max(SIGNATURE, argmax(2 * machine.drain_ports * machine.drain_pairs))


def drain_begins(machine: Machine, round_sums: int, sums: T) -> int | T:
    """Of the ``sums`` per token that a stationary array's tile takes out, those behind which its rounds can be drained one by one.

    A round's if its drain takes as long as the ``round_sums`` of the next one: then no round is met before its sums.
    """
    return round_sums if drain(machine, 1, machine.ports) >= round_sums else sums


def dot(machine: Machine) -> int:
    """A step of keys to its quarters' sums."""
    return product(machine) + tree(machine.kv_lanes)


def scored(machine: Machine) -> int:
    """Of a stationary array, a query's sum of a head taken out of the multipliers to its score."""
    return 1 + tree(machine.kv_lanes) + 1 + FROM_INTEGER


def score(machine: Machine) -> int:
    """A step of keys to the score of its last beat."""
    return dot(machine) + 1 + FROM_INTEGER


def settled(machine: Machine) -> int:
    """Attention's last step to the last of what its ports have to say, before it is reduced over them."""
    return PUT_ASIDE + max(scored(machine), WEIGHT) if machine.stationary else score(machine)
