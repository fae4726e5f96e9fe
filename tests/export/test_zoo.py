"""Every kind of module in the table of docs/export.md gives what the table says; the table is made from these exports.

To write it again: STATECELL_WRITE_DOCS=1 pytest tests/export/test_zoo.py
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from statecell_export import ModuleRefusedError, Report, export

from tests.export.zoo import BOTH, REFUSED, SCRIPT_ONLY, ZOO, Entry

DOCS = Path(__file__).parents[2] / "docs" / "export.md"
BEGIN, END = "<!-- table: made by tests/export/test_zoo.py -->", "<!-- end of table -->"


@dataclass(frozen=True)
class Outcome:
    entry: Entry
    report: Report | None
    refusal: str
    left: list[str]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Every export of the zoo, made once."""
    found = {}
    for number, entry in enumerate(ZOO):
        torch.manual_seed(number)
        out = tmp_path_factory.mktemp("zoo")
        module, example = entry.make()
        try:
            report, refusal = export(module, example, name="m", out=out), ""
        except ModuleRefusedError as error:
            report, refusal = None, str(error)
        found[entry.what] = Outcome(
            entry, report, refusal, sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
        )
    return found


@pytest.mark.parametrize("entry", [entry for entry in ZOO if entry.gives != REFUSED], ids=lambda entry: entry.what)
def test_module_is_exported_and_proven(entry: Entry, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[entry.what]
    assert outcome.report is not None, outcome.refusal
    files = ["model.onnx", "model.pt"] if entry.gives == BOTH else ["model.pt"]
    assert outcome.left == [f"m/1/{file}" for file in (*files, "report.json")]
    assert list(outcome.report.proof.worst) == files
    assert outcome.report.proof.worst_error <= 1e-6
    assert outcome.report.spec.streamable == entry.streamable
    assert bool(outcome.report.spec.reason) != entry.streamable
    assert bool(outcome.report.notes) == (entry.gives == SCRIPT_ONLY)


@pytest.mark.parametrize("entry", [entry for entry in ZOO if entry.gives == REFUSED], ids=lambda entry: entry.what)
def test_module_is_refused_with_one_message_and_nothing_is_left(entry: Entry, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[entry.what]
    assert outcome.report is None
    assert outcome.refusal
    assert outcome.left == []


def row(outcome: Outcome) -> str:
    """A line of the table; without the measured differences, which are another machine's."""
    if outcome.report is None:
        return f"| {outcome.entry.what} | refused | | | {_unmeasured(outcome.refusal)} |"
    spec, files = outcome.report.spec, outcome.report.artifacts
    made = ["yes" if file in files else "no" for file in ("model.onnx", "model.pt")]
    states = ", ".join(f"`{state.input}`" for state in spec.states)
    remark = f"recipe {outcome.report.recipe}; states {states}" if spec.streamable else _unmeasured(spec.reason)
    return f"| {outcome.entry.what} | {made[0]} | {made[1]} | {'yes' if spec.streamable else 'no'} | {remark} |"


def _unmeasured(reason: str) -> str:
    return re.sub(r"differs by \S+", "differs", reason)


def test_table_in_the_docs_is_what_these_exports_gave(outcomes: dict[str, Outcome]) -> None:
    head = ["| what you have | ONNX | TorchScript | stepped | how, or why not |", "|---|---|---|---|---|"]
    table = "\n".join([BEGIN, *head, *map(row, outcomes.values()), END])
    text = DOCS.read_text()
    before, rest = text.split(BEGIN)
    fresh = before + table + rest.split(END)[1]
    if os.environ.get("STATECELL_WRITE_DOCS"):
        DOCS.write_text(fresh)
    assert DOCS.read_text() == fresh, "docs/export.md is stale: STATECELL_WRITE_DOCS=1 pytest tests/export/test_zoo.py"
