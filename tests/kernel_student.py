"""A small student with the kernel's sizes, its exports with the fusion as one node, and bundles of it for a GPU."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from psamf_edge.bundle import Bundle


@dataclass(frozen=True)
class KernelStudent:
    """The student (untrained), its segments with the node, their float32 models by name, and the way to a bundle."""

    student: object
    segments: list
    models: dict
    compile: Callable[..., Bundle]  # (target, precision, fusion[, label or "no engines"]) to a bundle, cached


def make_kernel_student(tiny_weights: Path, tiny_export, directory: Path) -> KernelStudent:
    """The tiny student again with a width of 64. Its trunk is the tiny one's, whose export is there already."""
    import torch

    from psamf_edge.compile.command import compile_bundle
    from psamf_edge.compile.export import onnx_export
    from psamf_edge.compile.export.segments import split
    from psamf_edge.compile.model.student import Student, StudentConfig, load_student, save_student

    tiny = load_student(tiny_weights)
    torch.manual_seed(1)
    config = tiny.config
    student = Student(StudentConfig(config.audio_features, config.face_features, config.bert, width=64)).eval()
    student.trunk.load_state_dict(tiny.trunk.state_dict())
    torch.nn.init.normal_(student.fusion.pre_fusion.no_text)
    weights = directory / "weights"
    shutil.copytree(tiny_weights, weights)
    save_student(student, weights, torch.float32)
    segments = split(student, node=True)
    models = {segment.plan.name: onnx_export.export(segment) for segment in segments if segment.plan.name != "text"}
    models = {"text": tiny_export.models["text"], **models}
    made: dict[tuple, Bundle] = {}

    def build(*how: str | None) -> Bundle:
        if how not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(onnx_export, "export", lambda segment: models[segment.plan.name])
                target, precision, fusion, *_ = how
                output = directory / f"{'-'.join(map(str, how))}.psamf"
                engines = "no engines" not in how
                made[how] = compile_bundle(
                    weights, output, target, precision, name="kernel", fusion=fusion, engines=engines
                )
        return made[how]

    return KernelStudent(student, segments, models, build)
