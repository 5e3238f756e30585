"""One slice of the array: a port's multipliers, adder trees, group scales and FP32 accumulators."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from hw.arithmetic.fp32 import Add, FromInteger
from hw.arithmetic.pipeline import adder_tree, bits_for_index, delay, delay_valid
from hw.pe import multiplier
from hw.pe.multiplier import multiply
from skipopu.isa.spec import BLOCK_ROWS
from skipopu.layout import SCALES_PER_WORD
from skipopu.machine.config import Machine
from skipopu.numerics.align import ALIGNED_BIAS, ALIGNED_BITS
from skipopu.numerics.packing import SPACING, WEIGHT_BITS, WIDE_BITS
from skipopu.numerics.tables import FRACTION_BITS

QUERY_LANES = 4  # query heads (or tokens) that share the incoming elements of K
PROBABILITY_BITS = FRACTION_BITS + 1
WEIGHTED_BITS = PROBABILITY_BITS + ALIGNED_BITS  # of one p * v
# A group's sum over its beats: 512 products of an 18-bit activation with one operand; with both digits of INT8.
ROW_SUM_BITS = ALIGNED_BITS + WEIGHT_BITS + 9
SUM_BITS = ALIGNED_BITS + 8 + 9


class Take(data.StructLayout):
    """What all taking slices do with their next weight beat.

    scale: keep it as piece ``scale_beat`` of the scale word. first: keep it as the pair's first member. second: it is the
    second member, the pair is complete. scale_index: of the pair's first row in the scale word.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(
            {
                "scale": 1,
                "scale_beat": bits_for_index(max(2, 2 * SCALES_PER_WORD // machine.beat_bytes)),
                "first": 1,
                "second": 1,
                "scale_index": 5,
            }
        )


class Step(data.StructLayout):
    """What all slices do in one cycle, in lockstep.

    product: multiply the pair with a token's activations. token: list position. first_beat, last_beat: of the group.
    first_group: of the output. row: of the block (INT4: the pair's first). bank: of the accumulators.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(
            {
                "product": 1,
                "token": bits_for_index(machine.tokens),
                "first_beat": 1,
                "last_beat": 1,
                "first_group": 1,
                "row": 3,
                "bank": 1,
            }
        )


class Slice(Component):
    """``port_bits / 4`` multipliers of 27 x 18 bits behind one memory port.

    Weights: a beat of one row and a beat of its neighbour (INT4), or a row's two digits (INT8), form a pair; each
    multiplier holds one nibble of either and multiplies both by one activation per cycle. Two trees sum the halves of the
    products exactly; per group and row the integer is scaled, rounded once to FP32 and added to the output's accumulator
    ``latency`` - 1 cycles after the group's last step. The same accumulator is updated at most every 8 cycles; the adder
    takes 3. One pair per cycle: two INT4 group results, without stalls.

    Attention: with ``keys`` each quarter of the multipliers takes one query (from ``activation``) and all take the entry's
    elements; ``dots`` are the quarters' exact sums, ``dot_latency`` cycles after the step. With ``values`` the first quarter
    multiplies the elements by one probability; ``products`` follow ``product_latency`` cycles after the step.

    Members: beats (in stream), take, taking, wide (in: INT8), step, active (in: this slice takes part), activation, exponent
    (in, two cycles after the step), keys, values (in, levels), element, probability (in, two cycles after the step);
    drain_address (in: bank, pair, token), drain_even, drain_odd (out: accumulators of rows 2 * pair and 2 * pair + 1 one
    cycle later); dots, products, saturated (out).
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.depth = 1 << self.drain_address_bits(machine)
        super().__init__(
            {
                "beats": In(stream.Signature(machine.port_bits)),
                "take": In(Take(machine)),
                "taking": In(1),
                "wide": In(1),
                "step": In(Step(machine)),
                "active": In(1),
                "activation": In(ALIGNED_BITS * machine.weight_lanes),
                "exponent": In(8),
                "keys": In(1),
                "values": In(1),
                "element": In(ALIGNED_BITS * machine.kv_lanes),
                "probability": In(PROBABILITY_BITS),
                "drain_address": In(self.drain_address_bits(machine)),
                "drain_even": Out(32),
                "drain_odd": Out(32),
                "dots": Out(self.dot_bits(machine) * QUERY_LANES),
                "products": Out(WEIGHTED_BITS * machine.kv_lanes),
                "saturated": Out(1),
            }
        )

    @staticmethod
    def drain_address_bits(machine: Machine) -> int:
        """Width of (bank, pair of rows, token)."""
        return 1 + (BLOCK_ROWS // 2 - 1).bit_length() + bits_for_index(machine.tokens).width

    @staticmethod
    def dot_bits(machine: Machine) -> int:
        """Width of a quarter's sum of products of two aligned numbers."""
        return 2 * ALIGNED_BITS + (machine.kv_lanes - 1).bit_length()

    @staticmethod
    def product_latency(machine: Machine) -> int:
        """Cycles from a step to its products: memory, bus and operand registers, multiplier."""
        return 3 + multiplier.LATENCY

    @staticmethod
    def dot_latency(machine: Machine) -> int:
        return Slice.product_latency(machine) + (machine.kv_lanes - 1).bit_length()

    @staticmethod
    def latency(machine: Machine) -> int:
        """Cycles from a group's last step until its accumulator can be read."""
        at_total = Slice.product_latency(machine) + (machine.weight_lanes - 1).bit_length() + 1
        return at_total + 2 + FromInteger.LATENCY + Add.LATENCY + 2

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine = self.machine
        step, take = self.step, self.take
        working = self.active & step.product
        m.d.comb += self.beats.ready.eq(self.taking & (take.scale | take.first | take.second))

        scales = self._take_scales(m)
        halves = self._multiply(m)
        lower, upper = halves
        at_total = self.product_latency(machine) + (machine.weight_lanes - 1).bit_length() + 1
        is_wide = self.wide

        # Sums over the group's beats, per token
        token = delay(m, step.token, at_total, "token")
        first_beat = delay(m, step.first_beat, at_total, "first_beat")
        sums: list[Value] = []
        for name, total in (("lower", lower), ("upper", upper)):
            kept = Array(Signal(signed(ROW_SUM_BITS), name=f"{name}_sum_{j}", reset_less=True) for j in range(machine.tokens))
            running = Signal(signed(ROW_SUM_BITS), name=f"{name}_running")
            m.d.comb += running.eq(total + Mux(first_beat, 0, kept[token]))
            with m.If(delay_valid(m, working, at_total, f"{name}_working")):
                m.d.sync += kept[token].eq(running)
            sums.append(running)
        whole = sums[0] + (sums[1] << 4)  # INT8: lower digit + 16 * upper digit

        # Scale, round, accumulate: rows 2 * pair and 2 * pair + 1 side by side
        address = Cat(step.token, step.row[1:], step.bank)
        saturated = []
        for parity, total in enumerate(sums):
            name = ("even", "odd")[parity]
            group_sum = Signal(signed(SUM_BITS), name=f"{name}_group_sum")
            m.d.sync += group_sum.eq(Mux(is_wide, whole, total))
            scale = delay(m, scales[parity], at_total + 1, f"{name}_scale")
            mantissa = Cat(scale[:10], scale[10:15] != 0, Const(0, 1)).as_signed()
            scaled = Signal(signed(SUM_BITS + 12), name=f"{name}_scaled")
            m.d.sync += scaled.eq(group_sum * Mux(scale[15], -mantissa, mantissa))
            scale_exponent = Mux(scale[10:15] == 0, 1, scale[10:15])
            exponent = Signal(signed(12), name=f"{name}_exponent")
            m.d.sync += exponent.eq(
                delay(m, self.exponent, at_total - 1, f"{name}_group_exponent") + scale_exponent - (ALIGNED_BIAS + 25)
            )
            at_scaled = at_total + 2
            m.submodules[f"convert_{name}"] = convert = FromInteger(SUM_BITS + 12)
            here = working & step.last_beat & (~is_wide | (step.row[0] == parity))
            valid = delay_valid(m, here, at_scaled, f"{name}_valid")
            m.d.comb += [convert.mantissa.eq(scaled), convert.exponent.eq(exponent), convert.valid.eq(valid)]

            at_result = at_scaled + FromInteger.LATENCY
            m.submodules[f"accumulators_{name}"] = memory = Memory(shape=32, depth=self.depth, init=[])
            m.submodules[f"add_{name}"] = add = Add()
            first = delay(m, step.first_group, at_result, f"{name}_first")
            write, read, drain = memory.write_port(), memory.read_port(), memory.read_port()
            m.d.comb += [
                read.addr.eq(delay(m, address, at_result - 1, f"{name}_read_address")),
                add.a.eq(read.data),
                add.b.eq(convert.z),
                add.valid.eq(delay_valid(m, valid, FromInteger.LATENCY, f"{name}_result_valid") & ~first),
            ]
            at_write = at_result + Add.LATENCY
            value = Mux(delay(m, first, Add.LATENCY, f"{name}_f"), delay(m, convert.z, Add.LATENCY, f"{name}_z"), add.z)
            m.d.comb += [
                write.addr.eq(delay(m, address, at_write, f"{name}_write_address")),
                write.data.eq(value),
                write.en.eq(delay_valid(m, here, at_write, f"{name}_write")),
                drain.addr.eq(self.drain_address),
                (self.drain_odd if parity else self.drain_even).eq(drain.data),
            ]
            saturated += [add.saturated, convert.saturated]
            assert at_write + 1 <= self.latency(machine)
        m.d.comb += self.saturated.eq(Cat(saturated).any())
        return m

    def _take_scales(self, m: Module) -> list[Value]:
        """The pair's two scales: of its first and second row (INT8: of its only row, twice)."""
        take = self.take
        scales = [Signal(16, name=f"scale_{i}", reset_less=True) for i in range(SCALES_PER_WORD)]
        per_beat = self.machine.kv_lanes
        for i, scale in enumerate(scales):
            with m.If(self.taking & take.scale & (take.scale_beat == i // per_beat)):
                at = 16 * (i % per_beat)
                m.d.sync += scale.eq(self.beats.payload[at : at + 16])
        of_pair = [Signal(16, name=f"pair_scale_{k}", reset_less=True) for k in range(2)]
        with m.If(self.taking & take.second):
            own = Array(scales)[take.scale_index]
            m.d.sync += [
                of_pair[0].eq(own),
                of_pair[1].eq(Mux(self.wide, own, Array(scales[1::2])[take.scale_index[1:]])),
            ]
        return list(of_pair)

    def _multiply(self, m: Module) -> tuple[Value, Value]:
        """Operands, products and their sums; returns the repaired totals of the lower and upper products."""
        machine, take = self.machine, self.take
        lanes, quarter = machine.weight_lanes, machine.kv_lanes
        first = Signal(machine.port_bits, reset_less=True)
        with m.If(self.taking & take.first):
            m.d.sync += first.eq(self.beats.payload)
        negatives, products = [], []
        for i in range(lanes):
            # A complete pair: lower nibble, its sign, upper weight less the lower one's borrow.
            lower, sign, upper = (
                Signal(4, name=f"lower_{i}", reset_less=True),
                Signal(name=f"sign_{i}", reset_less=True),
                Signal(signed(WEIGHT_BITS), name=f"upper_{i}", reset_less=True),
            )
            nibble = first[4 * i : 4 * i + 4]
            below = nibble[3] & ~self.wide
            with m.If(self.taking & take.second):
                m.d.sync += [
                    lower.eq(nibble),
                    sign.eq(below),
                    upper.eq(self.beats.payload[4 * i : 4 * i + 4].as_signed() - below),
                ]
            held = delay(m, Cat(lower, sign, upper), 2, f"held_{i}")
            weight = Cat(held[:5], held[4].replicate(SPACING - 5), held[5:])
            k = i % quarter
            element = self.element[ALIGNED_BITS * k : ALIGNED_BITS * (k + 1)].as_signed()
            wide = Signal(signed(WIDE_BITS), name=f"wide_{i}", reset_less=True)
            narrow = Signal(signed(ALIGNED_BITS), name=f"narrow_{i}", reset_less=True)
            activation = self.activation[ALIGNED_BITS * i : ALIGNED_BITS * (i + 1)].as_signed()
            if i < quarter:
                m.d.sync += [
                    wide.eq(Mux(self.values, self.probability, Mux(self.keys, element, weight.as_signed()))),
                    narrow.eq(Mux(self.values, element, activation)),
                ]
            else:
                m.d.sync += [wide.eq(Mux(self.keys, element, weight.as_signed())), narrow.eq(activation)]
            products.append(multiply(m, machine.multiplier, wide, narrow, f"product_{i}"))
        for k, product in enumerate(products[:quarter]):
            m.d.comb += self.products[WEIGHTED_BITS * k : WEIGHTED_BITS * (k + 1)].eq(product[:WEIGHTED_BITS])

        lower_halves = [p[:SPACING] for p in products]
        upper_halves = [p[SPACING:].as_signed() for p in products]
        negatives = [p[SPACING - 1] for p in products]
        quarters: list[list[Value]] = []
        for halves in (lower_halves, upper_halves, negatives):
            quarters.append([adder_tree(m, halves[q * quarter : (q + 1) * quarter])[0] for q in range(QUERY_LANES)])
        bits = self.dot_bits(machine)
        for q in range(QUERY_LANES):
            low, high = quarters[0][q], quarters[1][q]
            dot = Cat(low[:SPACING], (high + low[SPACING:])[: bits - SPACING])
            m.d.comb += self.dots[bits * q : bits * (q + 1)].eq(dot)
        low, high, count = (adder_tree(m, parts)[0] for parts in quarters)
        total_bits = ALIGNED_BITS + WEIGHT_BITS + (lanes - 1).bit_length()
        lower, upper = Signal(signed(total_bits)), Signal(signed(total_bits))
        m.d.sync += [lower.eq(low - (count << SPACING)), upper.eq(high + count)]
        return lower, upper
