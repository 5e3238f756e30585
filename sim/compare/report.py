"""The report of a comparison: its tables in their order, plots, sentences."""

from __future__ import annotations

from sim.compare.comparison import Comparison
from sim.compare.energy import energy_table
from sim.compare.figures import Figures
from sim.compare.findings import verdict
from sim.compare.paper import paper_table, terms_table
from sim.compare.plots import plots
from sim.compare.roofs import gpu_roof_table, roof_table
from sim.compare.tables import clock_table, decode_table, first_token_table, measured_table, memory_table, others_table
from skipopu.report import Report

TABLES = (
    decode_table,
    clock_table,
    roof_table,
    gpu_roof_table,
    measured_table,
    first_token_table,
    energy_table,
    memory_table,
    paper_table,
    terms_table,
    others_table,
)


def report(c: Comparison) -> Report:
    figures = Figures(c)
    return Report([make(figures) for make in TABLES], plots(c), verdict(c), figures.all)
