"""Counts of dependence tokens."""

from __future__ import annotations

from amaranth.hdl import Array, Signal

from hw.control.issue import UNITS as COUNT
from hw.control.tokens import DependenceTokens
from tests.formal.laws import Laws, Unit

MORE_BITS = 2  # than a count has, of the count beside it


def laws() -> Laws:
    laws, tokens = Laws(), DependenceTokens()
    m = laws.m
    m.submodules.tokens = tokens
    laws.drive(*tokens.give, tokens.restart)
    # Units take what is there. One giver and one taker, any two.
    for take, available in zip(tokens.take, tokens.available, strict=True):
        m.d.comb += take.eq(laws.free(COUNT) & available)
    giver, taker = laws.fixed(range(COUNT), "giver"), laws.fixed(range(COUNT), "taker")
    gave = Array(tokens.give)[giver].bit_select(taker, 1)
    took = Array(tokens.take)[taker].bit_select(giver, 1)
    fault = Array(tokens.overflow)[giver].bit_select(taker, 1)
    there = Array(tokens.available)[taker].bit_select(giver, 1)
    given, faulted = Signal(tokens.BITS + MORE_BITS), Signal()
    full = (1 << tokens.BITS) - 1
    m.d.sync += faulted.eq(~tokens.restart & (faulted | fault))
    with m.If(tokens.restart):
        m.d.sync += given.eq(0)
    with m.Elif(~faulted & ~fault):
        m.d.sync += given.eq(given + gave - took)
    laws.law("a token is there just when one was given and not taken, until a fault", faulted | (there == (given != 0)))
    laws.law("there are never more than can be counted", given <= full)
    laws.law("a fault: just when one more is given than can be counted", faulted | (fault == (gave & ~took & (given == full))))
    laws.reached("a fault after as many tokens as can be counted", fault)
    return laws


UNITS = (Unit("hw/control/tokens.py", laws, "all units"),)
