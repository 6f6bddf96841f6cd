"""A bounded run of every fuzz target. The long one: `python -m tests.fuzz`, whose figures are in benchmarks/results."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutate import inputs
from tests.fuzz.targets import TARGETS

EXAMPLES = 60  # of each target: a few seconds in all


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_holds(name):
    if name == "signature":
        pytest.importorskip("cryptography", reason="cryptography is not installed")
    for data in TARGETS[name].corpus:
        TARGETS[name].run(data)
        TARGETS[name].run(b"")


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(chosen=st.data())
def test_no_input_does_harm(name, chosen):
    if name == "signature":
        pytest.importorskip("cryptography", reason="cryptography is not installed")
    TARGETS[name].run(chosen.draw(inputs(TARGETS[name])))
