"""Every figure of a comparison that is ours, and the published ones it is held against, as records."""

from __future__ import annotations

from sim.baselines import data
from sim.compare.comparison import Comparison
from sim.compare.decoding import PHYSICAL, RULE, RULE_NOTE, Decoding, decodings, own_share
from sim.estimate import Estimate
from sim.timing import energy
from skipopu.report import Keys, Record


class Figures:
    """Records, each made once: tables show these.

    Attributes:
        all: in the order of the file.
        rows: who decodes the same model how fast.
    """

    def __init__(self, c: Comparison) -> None:
        self.c, self.rows = c, decodings(c)
        self.all: list[Record] = []
        self._of: dict[tuple[int, str], Record] = {}
        self._rates()
        for part, skip in ((c.skipping, c.skipped), (c.dense, 0.0), *c.masked_runs):
            self._asked(part, skip)
        self._over_prompt_and_context()
        for row in self.rows:
            self._published(row)
        self._missing()

    def find(self, of: Estimate | Decoding | None, name: str) -> Record | None:
        """The first record of a run or a row under this name."""
        return self._of.get((id(of), name))

    def of(self, part: Estimate, name: str) -> Record:
        """That of a run of which there is one."""
        return self._of[id(part), name]

    def _put(
        self,
        part: Estimate,
        skip: float,
        name: str,
        value: float,
        unit: str,
        kind: str = "simulated",
        source: str = "",
        phase: str | None = None,
        digits: str = "",
    ) -> None:
        record = Record(
            name,
            value,
            unit,
            kind,
            source or f"timing engine, {self.c.machine.clock_mhz:g} MHz assumed",
            engine="timing",
            target=part.machine.name,
            model=part.workload.model,
            context=part.workload.context,
            skip=round(skip, 4),
            masked=None if part.workload.masked is None else round(part.workload.masked, 4),
            kv=part.workload.kv,
            phase=phase,
            system="skipopu",
            digits=digits,
        )
        self._keep(part, record)

    def _keep(self, of: Estimate | Decoding, record: Record) -> None:
        self.all.append(record)
        self._of.setdefault((id(of), record.name), record)

    def _rates(self) -> None:
        """Of every run: tokens per second, shares, bytes."""
        c = self.c
        runs: list[tuple[Estimate, float, str]] = [(c.skipping, c.skipped, "linear routers"), (c.dense, 0.0, "linear routers")]
        runs += [(c.two_layer, c.skipped, "two-layer routers")] if c.two_layer else []
        runs += [(c.ahead, c.skipped, "no routers")] if c.ahead else []
        runs += [(part, skip, f"channels masked, {c.how_masked}") for part, skip in c.masked_runs]
        runs += [
            (part, skip, f"at {clock:g} MHz")
            for clock, pair in list(c.by_clock.items())[1:]
            for part, skip in zip(pair, (0.0, c.skipped), strict=True)
        ]
        runs += [(part, ratio, "by skip ratio") for by in c.by_skip.values() for ratio, part in by.items()]
        runs += [(part, data.fpgas().paper.skip, "the paper's parameters") for part in c.paper.values()]
        for part, skip, what in runs:
            for name, value, unit, kind, note, digits in (
                (
                    "decode_tokens_per_s",
                    part.tokens_per_s,
                    "token/s",
                    "simulated",
                    f"timing engine, {part.machine.clock_mhz:g} MHz assumed",
                    ".3f",
                ),
                ("bandwidth_efficiency", part.efficiency, "ratio", "derived", PHYSICAL, ".5f"),
                ("share_of_cap", part.share_of_cap, "ratio", "derived", "bytes x tok/s / cap", ".5f"),
                ("bytes_per_token", part.bytes_per_token, "byte", "simulated", "timing engine", ".0f"),
            ):
                self._put(part, skip, name, value, unit, kind, phase="decode", source=f"{note}; {what}", digits=digits)

    def _asked(self, part: Estimate, skip: float) -> None:
        """Of the asked-for workload, skipping or not: shares of roofs, energy, what the history buffer spares, memory."""
        share = own_share(self.c, part, skip)
        note = f"{RULE}; {RULE_NOTE}"
        self._put(part, skip, "weight_share", share, "ratio", "derived", source=note, digits=".5f", phase="decode")
        self._put(
            part, skip, "roof_tokens_per_s", part.roof, "token/s", "derived", source="cap / bytes", digits=".3f", phase="decode"
        )
        joules = energy.total(part.energy())
        for name, value in (("", joules.likely), ("_low", joules.low), ("_high", joules.high)):
            source = "per-event table, sim/timing/energy.py"
            self._put(part, skip, f"energy_per_token_j{name}", value, "J", "estimated", source, digits=".5g", phase="decode")
        rest = energy.share_at_rest(part.energy())
        for name, value in (("", rest.likely), ("_low", rest.low), ("_high", rest.high)):
            self._put(part, skip, f"energy_share_at_rest{name}", value, "ratio", "estimated", digits=".5g", phase="decode")
        each = part.machine.beat_bytes / (len(part.cycles) - 1)
        hits, ahead = (part.decode[name] * each for name in ("HISTORY_BEATS", "AHEAD_BEATS"))
        for what, value in (("hits", hits), ("net of what is read ahead of use", hits - ahead)):
            source = f"timing engine; {what}"
            self._put(part, skip, "history_bytes_per_token", value, "byte", source=source, digits=".0f", phase="decode")
        self._put(part, skip, "kv_entries", part.kv_entries, "entry")
        self._put(part, skip, "memory_bytes", sum(part.regions.values()), "byte", "derived", source="compiled program")

    def _over_prompt_and_context(self) -> None:
        c = self.c
        for pair in c.by_prompt.values():
            for part, skip in zip(pair, (0.0, c.skipped), strict=True):
                self._put(part, skip, "time_to_first_token_s", part.time_to_first_token, "s", phase="prefill", digits=".5g")
        for part, skip in zip(c.long or (), (0.0, c.skipped), strict=c.long is not None):
            contexts, rates = part.rate_over_context(256)
            for context, value in zip(contexts, rates, strict=True):
                name = f"decode_tokens_per_s_at_{context}"
                self._put(part, skip, name, float(value), "token/s", phase="decode", digits=".3f")

    def _published(self, row: Decoding) -> None:
        if row.kind != "published":
            return
        keys: Keys = {
            "model": self.c.model,
            "skip": row.skipped,
            "system": row.name,
            "phase": "decode",
            "precision": row.weights,
        }
        self._keep(row, Record("decode_tokens_per_s", row.tokens_per_s, "token/s", "published", row.source, **keys))
        if row.share is not None:
            why = f"{RULE}, from the published rate; {row.source}"
            self._keep(row, Record("weight_share", row.share, "ratio", "derived", why, digits=".5f", **keys))
        if row.high is not None:
            self._keep(row, Record("decode_tokens_per_s_high", row.high, "token/s", "published", row.source, **keys))

    def _missing(self) -> None:
        c = self.c
        for precision, skips, policy in c.missing():
            missing = Record(
                "decode_tokens_per_s",
                None,
                "token/s",
                "measured",
                "missing",
                model=c.model,
                context=c.workload.context,
                skip=round(c.skipped, 4) if skips else 0.0,
                kv=policy,
                phase="decode",
                system="GPU",
                precision=precision,
            )
            self.all.append(missing)
