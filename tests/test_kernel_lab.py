"""The lab: every version on the CPU shim, the whole run over a stand-in for the GPU, and what it says without one."""

import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from psamf_edge.backends.driver import HostBuffer
from psamf_edge.errors import MissingDependencyError, PsamfError
from psamf_edge.kernels import compiler
from psamf_edge.kernels.cross_modal_attention import lab, limits, rivals, validation, versions
from psamf_edge.kernels.host.host import HostKernel

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed: no kernel on the CPU")


class HostDriver:
    """A driver over host memory whose kernels are the shim's; what a backend does not need is left out."""

    capability = (8, 7)

    def __init__(self) -> None:
        self.memory: dict[int, np.ndarray] = {}
        self.kernels: list[tuple[HostKernel, str]] = []
        self.graphs: dict[int, list] = {}
        self.recorded: list | None = None
        self.closed = False

    def current(self):
        return nullcontext()

    def stream(self) -> int:
        return 7

    def upload(self, values: np.ndarray) -> int:
        kept = np.array(values, order="C")
        self.memory[kept.ctypes.data] = kept
        return kept.ctypes.data

    def host_buffer(self, size: int, mapped: bool) -> HostBuffer:
        return HostBuffer(np.zeros(size, np.uint8), None)

    def copy_out(self, buffer: HostBuffer, address: int, size: int, stream: int) -> None:
        buffer.array[:] = self.memory[address].view(np.uint8).ravel()[:size]

    def synchronise(self, stream: int) -> None:
        assert stream == 7

    def kernel(self, code: bytes, entry: str) -> int:
        source = Path(code.decode())
        names = (*versions.entries(source), *(("nothing",) if source == versions.LAB else ()))
        self.kernels.append((HostKernel(source, names), entry))
        return len(self.kernels) - 1

    def launch(self, kernel, grid, block, shared, stream, arguments) -> None:
        if self.recorded is not None:
            self.recorded.append((kernel, grid, block, shared, stream, arguments))
            return
        library, entry = self.kernels[kernel]
        values = [self.memory[int(v)] if isinstance(v, np.uint64) else int(v) for v in arguments]
        library.launch(entry, grid, block, values)

    def capture(self, stream: int, work) -> int:
        self.recorded = []
        work()
        self.graphs[len(self.graphs)], self.recorded = self.recorded, None
        return len(self.graphs) - 1

    def launch_graph(self, graph: int, stream: int) -> None:
        for launch in self.graphs[graph]:
            self.launch(*launch)

    def free_graph(self, graph: int) -> None:
        del self.graphs[graph]

    def close(self) -> None:
        assert not self.graphs
        self.closed = True


class StillClock:
    """A clock whose every run takes two microseconds."""

    def __init__(self, stream: int) -> None:
        self.open = True

    def times(self, work, rounds: int, cold: bool = False) -> list[float]:
        for _ in range(rounds):
            work()
        return [2.0] * rounds

    def bandwidth(self) -> float:
        return 1e11

    def device(self) -> dict[str, str]:
        return {"device": "none: the shim", "cuda_driver": "0.0", "cuda_bindings": "0"}

    def close(self) -> None:
        self.open = False


@pytest.fixture
def stand_in(monkeypatch) -> HostDriver:
    driver = HostDriver()
    monkeypatch.setattr(lab, "open_driver", lambda: driver)
    monkeypatch.setattr(lab, "GpuClock", StillClock)
    monkeypatch.setattr(compiler, "nvrtc", lambda text, arch: str(by_text[text]).encode())
    monkeypatch.setattr(lab, "SHAPES", (versions.Sizes(1, 1, 20, 3),))
    monkeypatch.setattr(lab, "IN_GRAPH", 2)
    by_text = {path.read_text(): path for path in {version.source for version in versions.VERSIONS}}
    return driver


@needs_compiler
def test_every_version_is_right(stand_in):
    with lab.open_bench() as bench:
        rows = lab.validate(bench, seed=0)
    assert {name for name, *_ in rows} == {version.name for version in versions.VERSIONS}
    assert stand_in.closed


@needs_compiler
def test_a_wrong_version_is_not_timed(stand_in, monkeypatch):
    version = versions.VERSIONS[2]
    monkeypatch.setattr(
        lab, "VERSIONS", (type(version)(**{**vars(version), "weights": lambda case: 2 * case.weights()}),)
    )
    with pytest.raises(PsamfError, match="3 joined is wrong"), lab.open_bench() as bench:
        lab.validate(bench, seed=0)


@needs_compiler
def test_a_whole_run_writes_its_record(stand_in, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(lab, "RESULTS", tmp_path)
    monkeypatch.setattr(lab, "HERE", tmp_path)
    monkeypatch.setattr(lab, "validate", lambda bench, seed: [])
    monkeypatch.setattr(lab, "torch_rivals", no_torch)
    monkeypatch.setattr(sys, "argv", ["lab", "--rounds", "1", "--seed", "3"])
    (tmp_path / "README.md").write_text("before\n<!-- measured -->\nnothing yet\n<!-- /measured -->\nafter\n")
    assert lab.main() == 0
    record = json.loads((tmp_path / "kernels.json").read_text())
    assert [row["name"] for row in record["rows"]] == [
        "empty kernel",
        *("1 textbook", "2 folded", "3 joined", "4 shipped fp32", "4 shipped fp16"),
    ]
    assert all(row["graph"] == 1.0 and row["cold"] == 2.0 for row in record["rows"])  # two runs in a graph of 2 us
    assert all(row["error"] < 1e-2 for row in record["rows"][1:])  # they ran in half precision or better
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("before\n<!-- measured -->\nnone: the shim")
    assert text.endswith("<!-- /measured -->\nafter\n")
    assert "| 1, 1, 20 | 4 shipped fp16 | float16 | 2.00 | 1.00 | 2.00 |" in capsys.readouterr().out


def no_torch(case, stream):
    raise MissingDependencyError("PyTorch is not installed: no comparison with it.")


def test_the_rival_with_fused_attention_computes_the_block():
    torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")
    from psamf_edge.compile.model.attention import CrossModalBlock

    case = validation.draw(np.random.default_rng(0), np.float32, (2, 3, 40, 7))
    block = CrossModalBlock().eval()
    block.load_state_dict({name: torch.from_numpy(value) for name, value in case.blocks[0].items()})
    valid = torch.arange(40) < torch.from_numpy(case.lengths[:, :, :1])  # (B, S, T)
    with torch.inference_mode():
        steps = torch.from_numpy(np.nan_to_num(case.audio))
        contexts = rivals._sdpa(torch, block, torch.from_numpy(case.query), steps, valid.float())
    expected = case.expected()
    assert validation.error(contexts.numpy(), expected[0]) <= case.allowed_error(expected)


@pytest.mark.parametrize("module", ["cross_modal_attention.lab", "sanitize"])
def test_without_a_gpu_there_is_one_sentence(module, tmp_path):
    """CUDA_VISIBLE_DEVICES hides a GPU that is there, and an empty PATH the sanitizer."""
    environment = {"CUDA_VISIBLE_DEVICES": "", "PATH": str(tmp_path)}
    command = [sys.executable, "-m", f"psamf_edge.kernels.{module}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 3
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_counts():
    """The README's and the toolchain's: 8.4 MFLOP with keys and values at 500 steps, 0.35 without."""
    assert 2 * limits.textbook_multiplications(500) == 8_401_920
    assert 2 * limits.block_multiplications(500) == 354_304
    assert limits.block_bytes(0, 4) == 4 * 49920 + 4 * 128 + 8
    assert (
        limits.total_bytes(1, 1, 500, 500, 4) == 2 * limits.block_bytes(500, 4) - 4 * 64 - 8
    )  # one query, two lengths


def test_the_readme_has_the_computed_table():
    assert limits.table() in (Path(limits.__file__).with_name("README.md")).read_text()
