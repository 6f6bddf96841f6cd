"""The comparison of two machines' scores."""

import copy
import json

import pytest

from benchmarks.across_machines import MACHINES, REFERENCE, collect, describe, differences, overview, subsets
from psamf_edge.bundle import open_bundle
from psamf_edge.errors import UsageError

RECORD = {
    "model": {"name": "m", "precision": "int8", "manifest_sha256": "0"},
    "inputs": ["a"],
    "score and confidence": {"text": {"1": [1.0, 0.9], "2": [-0.25, 0.6]}, "text+face": {"1": [0.5, 0.7]}},
}


def changed(*keys, to):
    record = copy.deepcopy(RECORD)
    at = record
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = to
    return record


def test_every_subset_is_asked_for_once():
    assert subsets(("text", "face")) == [("text",), ("face",), ("text", "face")]
    assert len(subsets(("text", "audio", "face"))) == 7


def test_differences_are_counted_by_subset():
    text, both = differences(RECORD, changed("score and confidence", "text", "2", to=[0.5, 0.61]))
    assert (text["n"], text["same"], text["mean"], text["max"], text["max_input"]) == (2, 1, 0.375, 0.75, "2")
    assert (text["signs"], text["labels"]) == (1, 1)  # -0.25 is neutral, 0.5 is positive
    assert text["confidence_max"] == pytest.approx(0.01)
    assert (both["max"], both["same"], both["n"]) == (0, 1, 1)
    assert "| text | 2 | 1 | 0.3750 | 0.7500 | 0.0100 | 1 | 1 |" in describe([text, both])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (changed("model", "manifest_sha256", to="1"), "not of the same model"),
        (changed("inputs", to=["b"]), "not of the same inputs"),
        (changed("score and confidence", "text", to={"1": [1.0, 0.9]}), "only one has 2"),
        (changed("score and confidence", to={"text": RECORD["score and confidence"]["text"]}), "With text.face"),
    ],
)
def test_what_cannot_be_compared_is_a_sentence(other, message):
    with pytest.raises(UsageError, match=message):
        differences(RECORD, other)


def test_every_record_has_its_reference_and_says_whether_it_was_emulated():
    paths = list(MACHINES.glob("*/*.json"))
    assert paths
    for path in paths:
        assert (path.parent / REFERENCE).is_file()
        here = json.loads(path.read_text())["machine"]
        assert here.get("emulated", False) == ("qemu" in here["cpu"])
    assert overview().count("reference") == len(list(MACHINES.glob(f"*/{REFERENCE}")))


@pytest.mark.slow
def test_one_machine_agrees_with_itself_to_the_bit():
    one, other = (collect(open_bundle(None), None) for _ in range(2))
    assert all(row["same"] == row["n"] for row in differences(one, other))
