"""Status bits and the first error, whatever comes in whatever order."""

from __future__ import annotations

import random

from amaranth.sim import SimulatorContext

from hw.control.status import RunStatus
from skipopu.isa.registers import STATUS_DONE, STATUS_ERROR, STATUS_OWED, STATUS_RUNNING, STATUS_SATURATED
from tests.hw.bench import exercise


def test_events_in_any_order() -> None:
    dut = RunStatus()
    chances = {"clear": 0.1, "finish": 0.05, "saturated": 0.1, "fail": 0.02, "fault": 0.02, "ports_quiet": 0.2, "silent": 0.1}

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        source = stalls or random.Random(3)
        running = done = failed = sticky = False
        error = pc = 0
        said = coming = None
        for _ in range(200):
            event = {name: source.random() < chance for name, chance in chances.items()}
            event["restart"] = not running and not failed and source.random() < 0.3
            event["finish"] &= running and not failed
            values = {"fail_code": source.randrange(1, 12), "fail_pc": source.randrange(4097)}
            values |= {"fault_code": source.randrange(1, 12), "fault_pc": source.randrange(4096)}
            for name, value in (event | values).items():
                ctx.set(getattr(dut, name), value)
            await ctx.tick()
            # What ended the run comes first, what begins one last.
            before = failed
            sticky |= event["saturated"] and running
            if event["clear"] or event["restart"]:
                done = sticky = False
            if event["fault"] and running and not before:
                failed, error, pc = True, values["fault_code"], values["fault_pc"]
            elif event["fail"] and not before:
                failed, coming = True, (values["fail_code"], values["fail_pc"])
            elif event["restart"]:
                error = 0
            if said:  # the dispatcher's error has its code a cycle later
                error, pc = said
            said, coming = coming, None
            done |= event["finish"]
            ended = event["finish"] or (before and (event["ports_quiet"] or event["silent"]))
            running = (running or event["restart"]) and not ended
            status = running * STATUS_RUNNING | done * STATUS_DONE | sticky * STATUS_SATURATED
            status |= (failed and not running) * STATUS_ERROR | (not running and not event["ports_quiet"]) * STATUS_OWED
            assert ctx.get(dut.status) == status
            assert (ctx.get(dut.running), ctx.get(dut.failed)) == (running, failed)
            assert (ctx.get(dut.error), ctx.get(dut.error_pc)) == (error, pc)

    exercise(dut, {}, {}, drive=drive, seeds=range(5))


def test_the_first_of_two_faults_counts() -> None:
    """Memory owes answers, so that the run goes on behind it."""
    dut = RunStatus()

    async def drive(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        ctx.set(dut.restart, 1)
        await ctx.tick()
        ctx.set(dut.restart, 0)
        ctx.set(dut.fault, 1)
        for number in (5, 6):
            ctx.set(dut.fault_code, number)
            ctx.set(dut.fault_pc, 100 * number)
            await ctx.tick()
            assert ctx.get(dut.running)
            assert (ctx.get(dut.error), ctx.get(dut.error_pc)) == (5, 500)

    exercise(dut, {}, {}, drive=drive, seeds=())
