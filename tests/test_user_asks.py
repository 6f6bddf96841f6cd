"""docs/user-asks.md: every test that it names is there, and those that are nowhere else."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import onnx
import pytest

from psamf_edge.bundle import DEFAULT_BUNDLE

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "user-asks.md").read_text(encoding="utf-8")
ASKS = re.split(r"^## ", PAGE, flags=re.M)[1:]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")


def names_in(path: Path) -> set[str]:
    """The names under which pytest finds the tests of a file."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return {name for name in names if name.rpartition("::")[2].startswith("test_")}


def test_the_page_has_all_twelve() -> None:
    assert [ask.partition(".")[0] for ask in ASKS] == [str(number) for number in range(1, 13)]


@pytest.mark.parametrize("ask", ASKS, ids=lambda ask: ask.partition("\n")[0])
def test_every_test_that_is_named_is_there(ask: str) -> None:
    named = NAMED.findall(ask)
    assert named
    assert re.search(r"^\*.*#\d+.*\*", ask, re.M)  # whose complaint it is
    for file, name in named:
        assert name in names_in(ROOT / file), f"{file} has no {name}"


def test_no_model_that_ships_has_a_recurrence() -> None:
    for path in DEFAULT_BUNDLE.glob("*.onnx"):
        operators = {node.op_type for node in onnx.load(path).graph.node}
        assert operators.isdisjoint({"LSTM", "GRU", "RNN", "Loop", "Scan"}), path.name
