"""An LSTM beside the student's encoders, which have no recurrence: python -m benchmarks.recurrence [--rounds N]

The LSTM is one layer as wide as the student, and nothing else: no standardising, no summary. The encoders are the whole
of what the student runs. Random weights, batch 1, one thread, rivals taking turns; no GPU takes part.
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from benchmarks.measure import machine, save, summary, take_turns
from benchmarks.tables import table
from psamf_edge.audio.features import AUDIO_FEATURES
from psamf_edge.compile.model.encoders import SequenceEncoder
from psamf_edge.compile.model.student import StudentConfig
from psamf_edge.face.features import VISION_FEATURES

README = Path(__file__).parents[1] / "kernels" / "README.md"
STEPS = (100, 500)  # ten seconds of face at ten frames a second; the most that PSA-MF's features have


class Recurrence(nn.Module):
    """One LSTM layer over (B, T, F). The mask is not used: every step is valid here."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, width, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, F) -> hidden steps (B, T, d), mask, last (B, d), as SequenceEncoder."""
        h, _ = self.lstm(x)
        return h, mask, h[:, -1]


def multiplications(model: nn.Module, steps: int) -> int:
    """Multiply-adds of the recurrence, or of the convolutions."""
    if isinstance(model, Recurrence):
        lstm = model.lstm
        return steps * 4 * lstm.hidden_size * (lstm.input_size + lstm.hidden_size)
    total = 0
    for convolution in model.convolutions:
        steps = -(-steps // convolution.stride[0])
        total += steps * convolution.weight.numel()
    return total


def dependent_steps(model: nn.Module, steps: int) -> int:
    """Products that must wait for one another: each step of a recurrence; each convolution, then the pooling."""
    return steps if isinstance(model, Recurrence) else len(model.convolutions) + 1


def session(model: nn.Module, inputs: tuple[Tensor, Tensor]) -> onnxruntime.InferenceSession:
    """The model in ONNX Runtime, one thread, for this number of steps."""
    file = io.BytesIO()
    # the tracing exporter writes nn.LSTM as one ONNX LSTM, for which ONNX Runtime has a kernel
    torch.onnx.export(model, inputs, file, input_names=["x", "mask"], output_names=["h", "out_mask", "s"], dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])


def rivals(features: int, strides: tuple[int, ...], width: int) -> dict[str, nn.Module]:
    """Models by name, for one modality."""
    return {
        "LSTM": Recurrence(features, width).eval(),
        "student's encoder": SequenceEncoder(features, width, strides, dropout=0.0).eval(),
    }


def measure(rounds: int) -> list[dict]:
    """A row for each modality, number of steps and model."""
    config = StudentConfig(len(AUDIO_FEATURES), len(VISION_FEATURES))
    modalities = {
        "voice": (config.audio_features, config.audio_strides),
        "face": (config.face_features, config.face_strides),
    }
    rows = []
    for modality, (features, strides) in modalities.items():
        for steps in STEPS:
            models = rivals(features, strides, config.width)
            inputs = (torch.randn(1, steps, features), torch.ones(1, steps))
            feed = dict(zip(("x", "mask"), (value.numpy() for value in inputs), strict=True))
            calls = {}
            for name, model in models.items():
                calls[name, "PyTorch"] = lambda model=model, inputs=inputs: model(*inputs)
                compiled = session(model, inputs)
                needed = {value.name: feed[value.name] for value in compiled.get_inputs()}
                found, expected = compiled.run(["h"], needed)[0], model(*inputs)[0].numpy()
                if not np.allclose(found, expected, atol=1e-4):  # float32, sums of some hundred terms
                    raise AssertionError(f"ONNX Runtime computes another {name} than PyTorch.")
                calls[name, "ONNX Runtime"] = lambda compiled=compiled, needed=needed: compiled.run(["h", "s"], needed)
            for (name, runtime), times in take_turns(calls, rounds).items():
                model = models[name]
                rows.append(
                    {
                        "modality": modality,
                        "steps": steps,
                        "model": name,
                        "runtime": runtime,
                        "dependent_steps": dependent_steps(model, steps),
                        "multiplications": multiplications(model, steps),
                        "ms": summary(times),
                    }
                )
    return rows


def markdown(record: dict) -> str:
    """The table of kernels/README.md."""
    head = ["", "steps", "", "dependent products", "multiply-adds", "runtime", "p50 ms", "least ms"]
    rows = [
        [
            *(row["modality"], row["steps"], row["model"], row["dependent_steps"]),
            *(f"{row['multiplications'] / 1e6:.1f} M", row["runtime"], row["ms"]["p50"], row["ms"]["min"]),
        ]
        for row in record["rows"]
    ]
    m = record["machine"]
    where = f"{m['cpu']}, one thread, onnxruntime {m['onnxruntime']}, torch {m['torch']}, {m['date']}."
    return f"{table(head, [[str(cell) for cell in row] for row in rows])}\n\n{where}"


def main() -> None:
    """Measure, print, save, and write the table of kernels/README.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100, help="calls of each model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.inference_mode():
        rows = measure(options.rounds)
    record = {"machine": {**machine(), "torch": torch.__version__}, "rows": rows}
    save("recurrence", record)
    text = README.read_text(encoding="utf-8")
    marked = f"<!-- recurrence -->\n{markdown(record)}\n<!-- /recurrence -->"
    README.write_text(re.sub("<!-- recurrence -->.*<!-- /recurrence -->", lambda _: marked, text, flags=re.S), "utf-8")
    print(markdown(record))


if __name__ == "__main__":
    main()
