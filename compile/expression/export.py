"""The trained expression net to ONNX, with proof that the file computes what PyTorch computed."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import torch
from torch import nn

from psamf_edge.compile.expression.model import ExpressionCNN
from psamf_edge.errors import IntegrityError
from psamf_edge.face.crop import CROP_PIXELS
from psamf_edge.face.expression import ExpressionNet

OPSET = 17  # the first with LayerNormalization
PARITY_BOUND = 1e-4  # float32 sums of up to 1008 products, reordered, through nine layers: 1e-6 to 1e-5 was seen
PARITY_BATCHES = (1, 3, 17)  # odd sizes, none the one traced with: a batch size baked into the graph would show


class _WithProbabilities(nn.Module):
    """The net with its softmax, so that a runtime needs no arithmetic of its own."""

    def __init__(self, net: ExpressionCNN) -> None:
        super().__init__()
        self.net = net

    def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, embedding = self.net(crops)
        return logits.softmax(-1), embedding


def export(net: ExpressionCNN) -> tuple[bytes, float]:
    """The net as ONNX bytes, and the largest difference from PyTorch on random crops.

    Input `crops` (batch, 48, 48) uint8; outputs `probabilities` (batch, 7) and `embedding` (batch, 32), float32.

    Raises:
        IntegrityError: the exported graph differs from PyTorch by more than PARITY_BOUND, or its batch is fixed.
    """
    module = _WithProbabilities(net).eval()
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # the tracing exporter folds batch norms; the new one does not
        torch.onnx.export(
            module,
            (torch.zeros(2, CROP_PIXELS, CROP_PIXELS, dtype=torch.uint8),),
            buffer,
            dynamo=False,
            opset_version=OPSET,
            input_names=["crops"],
            output_names=["probabilities", "embedding"],
            dynamic_axes={name: {0: "batch"} for name in ("crops", "probabilities", "embedding")},
        )
    data = buffer.getvalue()
    model = onnx.load_model_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    for value in (*model.graph.input, *model.graph.output):
        if not value.type.tensor_type.shape.dim[0].dim_param:
            raise IntegrityError(
                f"The exported expression net fixes the batch size of {value.name}; it must be dynamic."
            )
    return data, parity(module, data)


def parity(module: nn.Module, data: bytes) -> float:
    """Largest absolute difference between PyTorch and ONNX Runtime over PARITY_BATCHES random crops.

    Raises:
        IntegrityError: it exceeds PARITY_BOUND.
    """
    runtime, worst = ExpressionNet(data), 0.0
    for size in PARITY_BATCHES:
        crops = np.random.default_rng(size).integers(0, 256, (size, CROP_PIXELS, CROP_PIXELS), dtype=np.uint8)
        with torch.inference_mode():
            expected = torch.cat(module(torch.from_numpy(crops)), dim=1).numpy()  # (size, 39)
        worst = max(worst, float(np.abs(runtime.embed(crops) - expected).max()))
    if not worst <= PARITY_BOUND:  # so that NaN fails too
        raise IntegrityError(
            f"The exported expression net differs from PyTorch by {worst:.2g}; {PARITY_BOUND} is allowed."
        )
    return worst
