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

    def forces(self, layers: int) -> list[tuple[int, int]]:
        """The (layer, module) pairs of a model that are :meth:`forced`."""
        return [(layer, module) for layer in range(layers) for module in Module if self.forced(layer, module)]

    def visible(self, executed: Array, own: Array, before: Array | None) -> Array:
        """Keys, or values, that a layer's queries see; ``executed`` is 1 or 0 per token, ``before`` what the layer before saw."""
        if self is KvPolicy.DENSE or before is None:
            return own
        return executed * own + (1 - executed) * before


class Phase(IntEnum):
    """What a chunk's tokens are."""

    PREFILL = 0  # of the prompt
    DECODE = 1  # generated ones


# As files name them.
MODULES = {module.name.lower(): module for module in Module}
PHASES = {phase.name.lower(): phase for phase in Phase}


class Weighs(IntEnum):
    """What a policy holds against the dial."""

    NOTHING = 0
    ROUTER = 1  # the difference of the module's router
    NORM = 2  # how much the layer in front changed the residual's norm


@dataclass(frozen=True)
class Decision:
    """What a rule may look at: one module's tokens at one layer, as arrays of the same shape (NumPy or PyTorch).

    Attributes:
        difference: FP32, the router's first output less its second, bias included. Where the norm is weighed how far 1/rms of the
            residual is from what it was in front of the layer before, which counts as 0 for the first layer: not negative.
        dial: FP32, the run's threshold; where the norm is weighed times 1/rms of the residual.
        position: of the token in its sequence.
        traced: bool, the bit of the run's routing trace; None where there is none.
        before: bool, whether the module executed at the layer before; true for the first layer.
        rank: tokens of the same window whose difference is larger, or as large and whose position is lower. among: tokens in the
            window, less than WINDOW where the prompt ends. None where no policy asks.
    """

    difference: Any
    dial: Any
    position: Any
    traced: Any = None
    before: Any = True
    rank: Any = None
    among: Any = None


@dataclass(frozen=True)
class SkipPolicy:
    """Who sets a routing bit; codes for each phase of attention and of the feed-forward network stand in a layer's router record.

    Attributes:
        name: as in :class:`skipopu.program.run.Run`, on the command line and in files of policies.
        code: in the router record.
        meaning: one line.
        rule: bits of a :class:`Decision`, 1 = execute; a plain bool stands for all of them. A larger difference never skips more.
        weighs: what the difference is of.
        reads_trace: the bits stand in memory.
        keep: of each window of WINDOW tokens of the prompt so many execute; 0: no windows are looked at.
        decoding: what decides about generated tokens instead, where that is another.
    """

    name: str
    code: int
    meaning: str
    rule: Callable[[Decision], Any]
    weighs: Weighs = Weighs.NOTHING
    reads_trace: bool = False
    keep: int = 0
    decoding: SkipPolicy | None = None

    def runs_on(self, tokens: int) -> bool:
        """Whether a machine knows it that takes so many ``tokens`` at once: no window may be cut by a chunk."""
        return not self.keep or tokens % WINDOW == 0


ROUTER = SkipPolicy(
    "router", 0, "the layer's router: its difference is at least the dial", lambda d: d.difference >= d.dial, Weighs.ROUTER
)
ALWAYS = SkipPolicy("always", 1, "executed", lambda d: True)
NEVER = SkipPolicy("never", 2, "skipped", lambda d: False)
TRACE = SkipPolicy("trace", 3, "a bit in memory, of a recorded or a random trace", lambda d: d.traced, reads_trace=True)
EXIT = SkipPolicy(
    "exit",
    4,
    "early exit: as router, until it skips; then in no further layer",
    lambda d: (d.difference >= d.dial) & d.before,
    Weighs.ROUTER,
)
NORM = SkipPolicy(
    "norm",
    5,
    "without routers: the layer before changed the residual's norm by at least this share of it, the dial, or skipped",
    lambda d: (d.difference >= d.dial) | (d.before ^ True),
    Weighs.NORM,
)

WINDOW = 4  # positions that are compared with one another: 4n to 4n + 3


def top(keep: int) -> SkipPolicy:
    """The policy that ``keep`` tokens of each window execute; of a shorter one as large a share, rounded up."""
    return SkipPolicy(
        f"top{keep}",
        8 + keep,
        f"the {keep} of each {WINDOW} tokens of the prompt with the largest differences of their routers; in decoding as router",
        lambda d: d.rank * WINDOW < keep * d.among,
        Weighs.ROUTER,
        keep=keep,
        decoding=ROUTER,
    )


TOP = tuple(top(keep) for keep in range(1, WINDOW))


def ranks(difference: Array, others: Array, position: Array, window: Array) -> tuple[Array, Array]:
    """``rank`` and ``among`` of a :class:`Decision`, (..., tokens), were the others' differences as in ``others``.

    ``position`` and ``window`` are of each token, (tokens,): those of one window are compared.
    """
    same, earlier = window[:, None] == window, position < position[:, None]
    larger = (others[..., None, :] > difference[..., :, None]) | ((others[..., None, :] == difference[..., :, None]) & earlier)
    return (larger & same & (position != position[:, None])).sum(-1), same.sum(-1)


Pair = tuple[SkipPolicy, SkipPolicy]  # by Module
Phases = tuple[Pair, Pair]  # by Phase; those of a layer


def everywhere(policy: SkipPolicy) -> Phases:
    """``policy`` for both modules in both phases, or what takes its place in decoding."""
    decoding = policy.decoding or policy
    return (policy, policy), (decoding, decoding)


def under(kv: KvPolicy, phases: Phases, layer: int) -> Phases:
    """Policies of a layer that is to be under ``phases``; what the KV policy forces executes."""

    def pair(policies: Pair) -> Pair:
        attention, ffn = (ALWAYS if kv.forced(layer, module) else policies[module] for module in Module)
        return attention, ffn

    return pair(phases[Phase.PREFILL]), pair(phases[Phase.DECODE])


SKIP_POLICIES = (ROUTER, ALWAYS, NEVER, TRACE, EXIT, NORM, *TOP)
BY_CODE = {policy.code: policy for policy in SKIP_POLICIES}
POLICY_BITS = 4  # of a code
# Those that a whole run, or a layer by a file of policies, can be put under: they need no trace.
WHOLE_RUN = {policy.name: policy for policy in SKIP_POLICIES if not policy.reads_trace}


def policy_of(code: int) -> SkipPolicy:
    """The policy of ``code``; a code that is not known skips."""
    return BY_CODE.get(code, NEVER)


assert len(BY_CODE) == len(SKIP_POLICIES), "two policies share a code"
