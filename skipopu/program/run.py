"""One execution of a program."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipopu.accept import INTEGER, NUMBER, Accepted, one_of
from skipopu.errors import ProgramError
from skipopu.isa.registers import NO_POSITION
from skipopu.machine.config import Machine
from skipopu.numerics import fp32
from skipopu.policy import ROUTER, TRACE, WHOLE_RUN, WINDOW, Phases, SkipPolicy, Weighs, everywhere, under
from skipopu.program.program import Program, address_units
from skipopu.records import ROUTER_RECORD, pack_router_record, router_record, router_windows

COMPILED = "program"  # routing as compiled
IDS = Accepted(
    "token ids", lambda ids: isinstance(ids, tuple | list) and all(isinstance(token, int | np.integer) for token in ids)
)


def require_windows(machine: Machine, policies: Iterable[SkipPolicy]) -> None:
    """Raises ProgramError when ``machine`` does not know one of ``policies``."""
    for policy in policies:
        if not policy.runs_on(machine.tokens):
            raise ProgramError(
                f"policy is {policy.name!r}, which compares windows of {WINDOW} tokens; machine {machine.name} takes {machine.tokens}"
                f" at once; accepted: a multiple of {WINDOW}"
            )


@dataclass(frozen=True)
class Run:
    """One execution of a program.

    Attributes:
        prompt: token ids, from position 0 on.
        max_new: tokens to generate; 0 evaluates the prompt only.
        dial: FP32 routing threshold.
        check: append signatures to the trace ring.
        routing: "program" keeps the policies it was compiled with; the name of one of :data:`skipopu.policy.WHOLE_RUN` puts every
            module under it in both phases, as "always" executes it; an array of bool (layers, 2, tokens), 1 = execute, replays a
            trace. What the KV policy forces runs anyway.
        after: ids behind the prompt that are known too: they were generated. Behind them generation goes on.
        first: position of the first token that is computed: of those before, keys and values stay as the runs before left them, and
            what those had of it and all later ones is given back.
        predict_from: first position of which it is said, too, which token the model puts behind it; None: of none.
    """

    prompt: tuple[int, ...]
    max_new: int = 0
    dial: float = 0.0
    check: bool = False
    routing: str | NDArray[np.bool_] = COMPILED
    after: tuple[int, ...] = ()
    first: int = 0
    predict_from: int | None = None

    @property
    def known(self) -> tuple[int, ...]:
        """Ids from position 0 on that are there before it begins."""
        return (*self.prompt, *self.after)

    def validate(self, program: Program) -> None:
        """Raises ProgramError when the run does not fit the program."""
        for name in ("prompt", "after"):
            IDS.check(getattr(self, name), name, ProgramError)
        for name in ("max_new", "first"):
            INTEGER.check(getattr(self, name), name, ProgramError)
        if self.predict_from is not None:
            INTEGER.check(self.predict_from, "predict_from", ProgramError)
        NUMBER.check(self.dial, "dial", ProgramError)
        if not self.prompt:
            raise ProgramError("prompt is empty; at least one token is needed")
        for name, ids in (("prompt token", self.prompt), ("token behind the prompt", self.after)):
            if bad := [t for t in ids if not 0 <= t < program.model.vocab_size]:
                raise ProgramError(f"{name} {bad[0]} is out of range; the vocabulary has {program.model.vocab_size} ids")
        if not 0 <= self.first < len(self.known):
            raise ProgramError(
                f"the first position is {self.first}; accepted: 0 to {len(self.known) - 1}, of tokens that are known"
            )
        if self.predict_from is not None and not self.first <= self.predict_from < len(self.known):
            raise ProgramError(
                f"predictions begin at position {self.predict_from}; accepted: {self.first} to {len(self.known) - 1}, of known tokens that are computed"
            )
        if self.max_new < 0:
            raise ProgramError(f"{self.max_new} new tokens are asked for; 0 or more are accepted")
        if len(self.known) + self.max_new > program.context:
            raise ProgramError(
                f"prompt of {len(self.prompt)} tokens{f', {len(self.after)} known behind it' if self.after else ''} plus {self.max_new} new ones exceeds the program's context of {program.context}"
            )
        if not np.isfinite(np.float32(self.dial)):
            raise ProgramError(f"dial is {self.dial}; a finite number is needed")
        if isinstance(self.routing, str):
            one_of([COMPILED, *WHOLE_RUN]).check(self.routing, "routing", ProgramError)
            if self.routing != COMPILED and WHOLE_RUN[self.routing].weighs is Weighs.ROUTER and not program.source["routers"]:
                raise ProgramError(
                    f"policy is {self.routing!r}, which asks routers; model {program.source['checkpoint']} has none"
                )
            if self.routing != COMPILED:
                require_windows(program.machine, [WHOLE_RUN[self.routing]])
                if WHOLE_RUN[self.routing].weighs is Weighs.NORM and program.decides_ahead:
                    raise ProgramError(
                        f"policy is {self.routing!r}, which weighs the residual; this program of model {program.source['checkpoint']}"
                        f" decides before that is known; accepted: one compiled with policies that name {self.routing!r} (--policies FILE)"
                    )
        elif not isinstance(self.routing, np.ndarray):
            raise ProgramError(f"routing is {self.routing!r}; accepted: the name of a policy, or an array of bool")
        else:
            shape = self.routing.shape
            layers, needed = program.model.num_layers, len(self.known) + max(self.max_new - 1, 0)
            if self.routing.dtype != bool:
                raise ProgramError(f"routing trace is {self.routing.dtype}; accepted: bool, 1 = execute")
            if len(shape) != 3 or shape[:2] != (layers, 2) or not needed <= shape[2] <= program.context:
                raise ProgramError(
                    f"routing trace has shape {shape}; accepted: ({layers}, 2, tokens) with {needed} to {program.context} tokens"
                )

    def chunk(self, position: int, most: int) -> int:
        """Tokens of the chunk that begins at ``position`` on a machine that takes up to ``most`` at once: of one phase."""
        ends = len(self.prompt if position < len(self.prompt) else self.known)
        return min(most, max(1, ends - position))

    def registers(self, program: Program) -> dict[str, int]:
        """What the host writes to the machine's registers before it starts this run."""
        return {
            "PROGRAM": address_units(program.regions["program"].address),
            "PROGRAM_LENGTH": len(program.instructions),
            "PROMPT_LENGTH": len(self.prompt),
            "MAX_NEW": self.max_new,
            "DIAL": int(fp32.bits(np.float32(self.dial))),
            "CHECK": int(self.check),
            "RING": address_units(program.regions["ring"].address),
            "RING_RECORDS": program.ring_records,
            "FIRST": self.first,
            "KNOWN_LENGTH": len(self.known),
            "PREDICT_FROM": NO_POSITION if self.predict_from is None else self.predict_from,
            "PREDICTED": address_units(program.regions["predicted"].address),
        }

    def predicted(self, program: Program, memory: NDArray[np.uint8]) -> list[int]:
        """By position from ``predict_from`` on, the tokens that port 0's ``memory`` has for what is known; none where nobody asked."""
        return memory[self.predicting(program)].view("<u4").tolist()

    def predicting(self, program: Program) -> slice:
        """Bytes of port 0 that have what ``predicted`` says."""
        address, end = program.regions["predicted"].address, len(self.known)
        return slice(address + 4 * (end if self.predict_from is None else self.predict_from), address + 4 * end)

    def require_kept(self, tokens: int, machine: str) -> None:
        """Raises ProgramError where this run needs more than the ``tokens`` that ``machine`` computed before it."""
        if self.first > tokens:
            kept = f"0 to {tokens}" if tokens else "0, where nothing is kept of other runs"
            raise ProgramError(f"the run begins at position {self.first}; accepted by the {machine}: {kept}")

    def processed(self, tokens: int) -> int:
        """How many tokens have keys and values behind it if it generated so many: nobody asked what follows the last one."""
        return len(self.known) + max(0, tokens - 1)

    def prepare(self, program: Program) -> list[NDArray[np.uint8]]:
        """A copy of the program's memory with the prompt (and the routing trace) in place."""
        self.validate(program)
        memory = [port.copy() for port in program.memory]
        self.place(program, memory[0])
        return memory

    def place(self, program: Program, memory: NDArray[np.uint8]) -> None:
        """Puts known tokens, routing trace and the layers' policies into port 0's ``memory``, where another run's may stand."""
        address = program.regions["tokens"].address
        memory[address : address + 4 * len(self.known)] = np.array(self.known, "<u4").view(np.uint8)
        if self.check:  # records of a run before are none of this one's
            ring = program.regions["ring"]
            memory[ring.address : ring.address + ring.size] = 0
        if not isinstance(self.routing, str):
            region, layers = program.regions["trace"], program.model.num_layers
            rows = memory[region.address : region.address + region.size].reshape(layers, -1)
            executed = self.routing.astype(np.uint8)
            rows[:, : executed.shape[2]] = executed[:, 0] | executed[:, 1] << 1
        compiled, (first, stride) = program.memory[0], program.router_record
        for layer, policies in enumerate(self.policies(program)):
            address = first + layer * stride
            record = compiled[address : address + ROUTER_RECORD.size]
            if not isinstance(self.routing, str) or self.routing != COMPILED:
                bias, _ = router_record(compiled, address)
                record = pack_router_record(bias.tolist(), policies, router_windows(compiled, address))
            memory[address : address + len(record)] = record

    def policies(self, program: Program) -> list[Phases]:
        """Those of every layer in this run; a program without weights has routers."""
        layers, (first, stride) = range(program.model.num_layers), program.router_record
        if isinstance(self.routing, str) and self.routing == COMPILED and program.memory:
            return [router_record(program.memory[0], first + layer * stride)[1] for layer in layers]
        named = WHOLE_RUN.get(self.routing, ROUTER) if isinstance(self.routing, str) else TRACE
        return [under(program.kv, everywhere(named), layer) for layer in layers]
