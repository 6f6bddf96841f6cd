"""An analyzer for the tests of the command line: instant, and wrong about nothing but the world."""

from __future__ import annotations

from pathlib import Path

from psamf_edge.errors import InputError
from psamf_edge.result import MODALITIES, ModalityReport, ModelIdentity, Result, Segment, label_of


class FakeAnalyzer:
    """Scores 1.5 where the text says "good", -1.5 where it says "bad", 0 for a clip; a clip called bad* is an error.

    `open` stands in for the class. `opened_with`, `limits`: what it got. `calls`: clip and arguments of each call.
    `error`: raised by each call, if there is one.
    """

    def __init__(self):
        self.opened_with = self.limits = None
        self.model = ModelIdentity("fake", "ab" * 32, "onnxruntime", "fp32")
        self.note = None
        self.warnings = []
        self.calls = []
        self.error = None

    def open(self, bundle, device, threads, require_signature=None, limits=None):
        self.opened_with, self.limits = (bundle, device, threads), limits
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def __call__(self, clip=None, **arguments):
        self.calls.append((clip, arguments))
        if self.error:
            raise self.error
        if clip is not None and Path(clip).name.startswith("bad"):
            raise InputError(f'"{clip}" is no media file.')
        text = arguments.get("text")
        score = 0.0 if text is None else 1.5 * (("good" in text) - ("bad" in text))
        modalities = dict.fromkeys(MODALITIES, ModalityReport("present", score / 3))
        segment = Segment(0, 1000, text, score, label_of(score), 0.8, modalities)
        name = "-" if clip is None else str(clip)
        return Result(name, "cd" * 32, 1000, self.model, score, segment.label, [segment], {}, self.warnings)
