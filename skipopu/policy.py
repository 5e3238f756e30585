"""Who decides what a token skips, and what becomes of its keys and values.

A policy is data and a small rule: an object here, and a circuit in :mod:`hw.router.route` where a rule is new. Compiler, engines
and hardware ask the objects and know no policy by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, TypeVar

from skipopu.isa.spec import TokenList

Array = TypeVar("Array", bound=Any)


class Module(IntEnum):
    """Parts of a layer that a token may skip, in the order of routing bits."""

    ATTENTION = 0
    FFN = 1


class KvPolicy(StrEnum):
    """Keys and values of tokens that skip attention."""

    DENSE = "dense"  # computed and stored for every token at every layer
    REUSE = "reuse"  # those of the layer before stand for them

    @property
    def stored(self) -> TokenList:
        """The tokens whose keys and values a layer computes and stores."""
        return TokenList.ALL if self is KvPolicy.DENSE else TokenList.ATTENTION

    @property
    def rereads(self) -> bool:
        """Whether a layer reads entries that the layer before read: then the KV history buffer saves traffic."""
        return self is KvPolicy.REUSE

    def forced(self, layer: int, module: int) -> bool:
        """Whether ``module`` executes whatever its router says: there is nothing to reuse before the first layer."""
        return self is KvPolicy.REUSE and layer == 0 and module == Module.ATTENTION

    def visible(self, executed: Array, own: Array, before: Array | None) -> Array:
        """Keys, or values, that a layer's queries see; ``executed`` is 1 or 0 per token, ``before`` what the layer before saw."""
        if self is KvPolicy.DENSE or before is None:
            return own
        return executed * own + (1 - executed) * before


@dataclass(frozen=True)
class Decision:
    """What a rule may look at: one module's tokens at one layer, as arrays of the same shape (NumPy or PyTorch).

    Attributes:
        difference: FP32, the router's first output less its second, bias included.
        dial: FP32, the run's threshold.
        position: of the token in its sequence.
        traced: bool, the bit of the run's routing trace; None where there is none.
    """

    difference: Any
    dial: Any
    position: Any
    traced: Any = None


@dataclass(frozen=True)
class SkipPolicy:
    """Who sets a routing bit; two codes per layer, attention's and the feed-forward network's, stand in the router record.

    Attributes:
        name: as in :class:`skipopu.program.run.Run` and on the command line.
        code: in the router record.
        meaning: one line.
        rule: bits of a :class:`Decision`, 1 = execute; a plain bool stands for all of them.
        reads_trace: the bits stand in memory.
    """

    name: str
    code: int
    meaning: str
    rule: Callable[[Decision], Any]
    reads_trace: bool = False


ROUTER = SkipPolicy("router", 0, "the layer's router: its difference is at least the dial", lambda d: d.difference >= d.dial)
ALWAYS = SkipPolicy("always", 1, "executed", lambda d: True)
NEVER = SkipPolicy("never", 2, "skipped", lambda d: False)
TRACE = SkipPolicy("trace", 3, "a bit in memory, of a recorded or a random trace", lambda d: d.traced, reads_trace=True)


def under(kv: KvPolicy, policy: SkipPolicy, layer: int) -> tuple[SkipPolicy, SkipPolicy]:
    """Policies of a layer's attention and feed-forward network in a run under ``policy``."""
    attention, ffn = (ALWAYS if kv.forced(layer, module) else policy for module in Module)
    return attention, ffn


SKIP_POLICIES = (ROUTER, ALWAYS, NEVER, TRACE)
BY_CODE = {policy.code: policy for policy in SKIP_POLICIES}
POLICY_BITS = 4  # of a code
# Those that a whole run can be put under: they need neither a router nor a trace.
WHOLE_RUN = {policy.name: policy for policy in (ALWAYS, NEVER)}


def policy_of(code: int) -> SkipPolicy:
    """The policy of ``code``; a code that is not known skips."""
    return BY_CODE.get(code, NEVER)


assert len(BY_CODE) == len(SKIP_POLICIES), "two policies share a code"
