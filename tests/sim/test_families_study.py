"""The study of families: what its cells say."""

from __future__ import annotations

import pytest

from sim.studies import families
from sim.studies.families import Row
from skipopu.policy import KvPolicy

pytest.importorskip("transformers")


def test_a_refusal_is_its_sentence() -> None:
    row = Row(True, KvPolicy.REUSE, "the model's attention_cap is 5; accepted: 0")
    assert families.cells([row, row]) == ["not supported: the model's attention_cap is 5; accepted: 0", "", ""]
    (error, refusal) = families.records("gemma2", 1e-7, [row])
    assert (error.value, refusal.value, refusal.kv) == (1e-7, row.outcome, "reuse")


@pytest.mark.studies
def test_llama_runs_on_all_engines() -> None:
    report = families.report(names=["llama"])
    ((name, kind, error, decided, equal, _),) = report.tables[0].rows
    assert (name, kind, equal) == ("llama", "LlamaForCausalLM", "4 of 4 equal")
    assert float(str(error)) < 1e-5
    assert str(decided).endswith("decide, 0 differ")
    assert sum(record.name == "differing_bits" and record.value == 0 for record in report.records) == 4
