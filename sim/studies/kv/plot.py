"""Plot of study ``kv``."""

from __future__ import annotations

from matplotlib import colormaps
from matplotlib.figure import Figure

from sim.studies.kv.points import HERE, PAPER, Point
from sim.studies.kv.routing import Trace
from sim.studies.kv.sweeps import Sweep
from sim.studies.kv.traffic import MAPPINGS
from skipopu.machine.config import Machine
from skipopu.machine.memory import HBM2


def draw(figure: Figure, machine: Machine, points: list[Point], sweeps: list[Sweep], traces: list[Trace]) -> None:
    """Hit rate and bandwidth against context and capacity; learned against random routing; the paper's points."""
    axes = figure.subplots(2, 3)
    for row, sweep in zip(axes, sweeps, strict=True):
        for (skip, stride), line in sweep.rows.items():
            style = {
                "color": colormaps.get_cmap("viridis")(skip / 0.7),
                "linestyle": "-" if stride == 1 else ":",
                "marker": ".",
            }
            label = f"{skip:.0%} skipped" if stride == 1 else None
            row[0].plot(sweep.at, [100 * x.hit_rate for x in line], label=label, **style)
            row[1].plot(sweep.at, [x.bandwidth for x in line], label=label, **style)
        row[0].set_ylabel("hits, %")
        row[1].set_ylabel("KV reads, GB/s, hits counted")
        row[1].axhline(machine.ports * HBM2.cap, color="grey", linewidth=0.8, linestyle="--")
        for axis in row[:2]:
            axis.set(xlabel=sweep.label, title=sweep.title)
            if sweep.label == "context":
                axis.set_xscale("log", base=2)
                axis.set_xticks(sweep.at, map(str, sweep.at))
        handles, labels = row[0].get_legend_handles_labels()
        title = "solid: every layer, dotted: every second"
        row[0].legend(
            handles, labels, fontsize=8, title=title, title_fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.19), ncols=4
        )
    names = [t.name for t in traces]
    axes[0, 2].barh(names, [100 * t.hit_rate for t in traces])
    axes[0, 2].set(xlabel="hits, %", title="shipped model's routing of held-out text")
    shown = [p for p in points if p.here]
    for k, mapping in enumerate(MAPPINGS):
        at = [n + 0.2 - 0.4 * k for n in range(len(shown))]
        axes[1, 2].barh(at, [p.here[mapping].bandwidth for p in shown], height=0.36, label=f"here, {mapping}, context {HERE}")
    axes[1, 2].set_yticks(range(len(shown)), [p.name.replace(", ", ",\n", 1) for p in shown])
    axes[1, 2].plot([PAPER.kv_gb_s[p.name] for p in shown], range(len(shown)), "k|", markersize=30, label="paper")
    axes[1, 2].set(xlabel="GB/s, hits counted", title="the paper's points", xlim=(0, 500))
    axes[1, 2].legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.19), markerscale=0.3)
