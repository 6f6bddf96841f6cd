"""The benchmark of rivals: processes that answer, turns, and what the table says of them."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks import cpu_choices, older_cpu, peers
from benchmarks.cpu_tables import DEFAULT_SETTINGS, precisions, settings
from benchmarks.cpu_tables import peers as peers_table
from benchmarks.peer_child import load_utterances, save_utterances
from psamf_edge.backends import open_backend
from psamf_edge.bundle import DEFAULT_BUNDLE, open_bundle


class Fake:
    """A rival without a process."""

    def __init__(self, name: str, ms: float, score: float | None) -> None:
        self.peer, self.threads = peers.Peer(name, "eager"), 1
        self.ms, self.scores, self.seen = [], {}, []
        self._ms, self._score = ms, score

    def score(self, number: int, counts: bool) -> None:
        self.seen.append(number)
        self.scores[number] = self._score
        if counts:
            self.ms.append(self._ms)

    def end(self) -> dict[str, float]:
        return {"resident_mb": 10 * self._ms, "peak_mb": 11 * self._ms, "bare_mb": 1.0}


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """Two utterances, and the file that holds them."""
    found = peers.utterances()[:2]
    path = tmp_path_factory.mktemp("peers") / "utterances.npz"
    save_utterances(found, path)
    return found, path


def test_utterances_survive_their_file(spoken) -> None:
    for before, after in zip(spoken[0], load_utterances(spoken[1]), strict=True):
        for name in ("ids", "audio", "face"):
            assert np.array_equal(getattr(before, name), getattr(after, name))


def test_the_shipped_bundle_as_a_process_of_its_own(spoken) -> None:
    rival = peers.Rival(peers.Peer("ours", "backend", "int8"), 1, spoken[1], {"int8": DEFAULT_BUNDLE})
    assert rival.unavailable is None
    for number in (1, 0, 1):
        rival.score(number, counts=number == 0)
    memory = rival.end()
    rival.close()
    assert len(rival.ms) == 1
    assert memory["peak_mb"] >= memory["resident_mb"] > memory["bare_mb"] > 0
    with open_backend(open_bundle(DEFAULT_BUNDLE), "cpu") as backend:
        assert rival.scores == {i: backend.run(features).score for i, features in enumerate(spoken[0])}


def test_one_that_cannot_run_says_why(spoken, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    rival = peers.Rival(peers.Peer("compiled", "inductor"), 1, spoken[1], {})
    rival.close()
    assert rival.unavailable == "torch.compile needs a C++ compiler, and there is none here"


def test_rivals_take_turns_on_the_same_utterances() -> None:
    rivals = [Fake("a", 1, 0.0), Fake("b", 2, 0.0)]
    peers.compete(rivals, count=3, rounds=4)
    assert rivals[0].seen == rivals[1].seen == [0, 1, 2, 0, 1, 2, 0]
    assert [len(rival.ms) for rival in rivals] == [4, 4]  # three turns, one of each length, were a warm-up


def test_the_table() -> None:
    rivals = ours, same, _ = Fake("ours", 2, 1.0), Fake("same", 6, 1.25), Fake("released", 300, None)
    peers.compete(list(rivals), count=2, rounds=8)
    rows = [peers.row(rival, ours, same) for rival in rivals]
    rows.append({"name": "on a GPU", "threads": 1, "unavailable": peers.NO_GPU})
    machine = {"cpu": "A CPU", "cores": "2", "onnxruntime": "1", "torch": "2", "date": "today", "busy_cores": 1.5}
    lengths = [{"tokens": 3, "hops": 40, "frames": 4}, {"tokens": 30, "hops": 600, "frames": 60}]
    text = peers_table({"machine": machine, "lengths": lengths, "peers": rows})
    assert "| ours | 1 | 2.0 | 2.0 | 2.0 | 2.0 | 1.0 x | 20 | 1.0 x | 0.250 |" in text
    assert "| released | 1 | 300.0 | 300.0 | 300.0 | 300.0 | 150.0 x | 3000 | 150.0 x | - |" in text
    assert "No GPU here: on a GPU." in text
    assert "| on a GPU" not in text  # no figure where nothing was measured
    assert "3 to 30 tokens and 0.4 to 6 s" in text
    assert "A CPU, 2 cores, onnxruntime 1, torch 2, today. Others kept 1.5 cores busy" in text


def test_every_combination_of_settings_is_measured_once() -> None:
    found = list(cpu_choices.all_settings())
    assert DEFAULT_SETTINGS in found
    assert len({tuple(sorted(each.items())) for each in found}) == len(found) == 4 * 2 * 3 + 1


def test_tables_of_the_choices() -> None:
    machine = {"cpu": "A CPU", "cores": "2", "onnxruntime": "1", "date": "today", "busy_cores": None}
    here = {"ms": {"fp32": [8, 8], "int8": [4, 4]}, "scores": {"fp32": [0, 1], "int8": [0.25, 1]}}
    old = {"ms": {"fp32": [8, 8], "int8": [16, 16]}, "scores": {"fp32": [0, 1], "int8": [0, 1.5]}}
    processors = cpu_choices.with_gaps({cpu_choices.HERE: here, "old": old, "older": {"unavailable": "no compiler"}})
    text = precisions({"machine": machine, "processors": processors})
    assert "| int8 | 4.0 (2.0 x) | 16.0 (0.5 x) |" in text
    assert "| int8 | 0.250, 0.000 | 0.500, 0.500 |" in text
    assert "older: no compiler." in text
    samples = {"model": [2.0], "face": [3.0], "open": [100.0], "mb": [80.0]}
    rows = [{"precision": precision, "settings": chosen, "samples": samples} for precision in ("int8", "fp32")
            for chosen in cpu_choices.all_settings()]  # fmt: skip
    assert "| two threads | 2.0 | 2.0 | 3.0 | 100 | 80 | 80 |" in settings({"machine": machine, "settings": rows})


def test_which_processors_can_be_pretended() -> None:
    zen4, haswell = {"avx", "avx2", "avx512f", "avx512bw", "avx512_vnni"}, {"avx", "avx2"}
    names = {flags: [each.name for each in older_cpu.PROCESSORS if each.suits(set(flags))]
             for flags in (tuple(zen4), tuple(haswell))}  # fmt: skip
    assert list(names.values()) == [["AVX-512 without VNNI", "AVX2", "AVX"], ["AVX"]]
    if "onnxruntime" in sys.modules:
        with pytest.raises(RuntimeError, match="imported before"):
            older_cpu.pretend(None, (0, 0, 0, 0))
