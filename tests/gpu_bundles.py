"""Bundles with engines for the stand-in GPU, and what the tests of the backend feed them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from fake_gpu import FakeGpu
from fake_tensorrt import VERSION

from psamf_edge.bundle import Bundle, EngineOrigin
from psamf_edge.plan import Features

PRESENT = {"t": "text", "a": "audio", "v": "face"}


def with_engines(bundle: Bundle, path: Path, flavour: str = "tensorrt_rtx") -> Bundle:
    """The same bundle with an engine for each segment, which is the ONNX file under another name."""
    from psamf_edge.compile.export.pack import BundleContent, write_bundle

    files = {name: bundle.read(name) for name in bundle.files}
    files |= {f"{segment.name}.engine": files[segment.file] for segment in bundle.plan}
    plan = tuple(replace(segment, engine=f"{segment.name}.engine") for segment in bundle.plan)
    model = FakeGpu().model if flavour == "tensorrt" else None
    origin = EngineOrigin(flavour, VERSION, "the stand-in", model=model)
    return write_bundle(path, BundleContent("engines", "rtx", "fp32", plan, bundle.shapes, "x", origin), files)


def kernel_student(tiny_weights: Path, directory: Path) -> Path:
    """A directory of weights like the tiny student's, in the width that the kernel is made for."""
    import torch

    from psamf_edge.audio.features import AUDIO_FEATURES
    from psamf_edge.compile.model.student import Student, StudentConfig, load_student, save_student
    from psamf_edge.face.features import VISION_FEATURES
    from psamf_edge.kernels.cross_modal_attention.packing import WIDTH

    torch.manual_seed(0)
    bert = load_student(tiny_weights).config.bert
    student = Student(StudentConfig(len(AUDIO_FEATURES), len(VISION_FEATURES), bert, width=WIDTH))
    torch.nn.init.normal_(student.fusion.pre_fusion.no_text)  # zeros, as it starts, would hide a wrong use of it
    shutil.copytree(tiny_weights, directory, dirs_exist_ok=True)
    save_student(student, directory, torch.float32)
    return directory


def features(bundle: Bundle, present: str = "tav", seed: int = 0, sizes: tuple = (11, 301, 29)) -> Features:
    """Random features: t, a and v in `present` are text, voice and face; sizes are tokens, hops and frames."""
    rng, shapes = np.random.default_rng(seed), bundle.shapes
    return Features(
        rng.integers(0, shapes.vocabulary, sizes[0]) if "t" in present else None,
        rng.standard_normal((sizes[1], shapes.audio_features), np.float32) if "a" in present else None,
        rng.standard_normal((sizes[2], shapes.face_features), np.float32) if "v" in present else None,
    )
