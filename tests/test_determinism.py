"""A clip gives the same bits in any company, order, process and number of threads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import media_files as files
import numpy as np
import pytest
from test_numbers import babble, float_wav

import psamf_edge
from psamf_edge.backends import open_backend
from psamf_edge.bundle import open_bundle
from psamf_edge.media.events import Frame
from psamf_edge.media.reader import MediaReader

SAMPLE = Path(psamf_edge.__file__).parent / "data" / "sample.mp4"


@pytest.fixture(scope="module")
def analyzer():
    with psamf_edge.load(device="cpu") as analyzer:
        yield analyzer


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Path]:
    """The sample, a sound with words, and a sound without."""
    folder = tmp_path_factory.mktemp("clips")
    paths = [Path(shutil.copy(SAMPLE, folder / "talk.mp4"))]
    for index in range(2):
        paths.append(float_wav(folder / f"voice{index}.wav", babble(3, seed=index)))
    paths[1].with_suffix(".txt").write_text("I was glad to be there. It ended badly.")
    return paths


def said(result) -> str:
    """All that a result says but for the time it took, with every digit."""
    return repr(
        (result.clip, result.sha256, result.duration_ms, result.model, result.score, result.segments, result.warnings)
    )


def scored(*arguments: str | Path, **environment: str) -> dict[str, str]:
    """What a process of its own writes of each clip, but for the time it took."""
    command = [sys.executable, "-m", "psamf_edge", "infer", "-q", "--device", "cpu", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=60)
    results = map(json.loads, done.stdout.splitlines())
    return {result["clip"]: json.dumps({**result, "timing_ms": None}) for result in results}


@pytest.fixture(scope="module")
def reference(clips) -> dict[str, str]:
    return scored(*clips)


def test_a_clip_has_the_same_score_alone_and_in_every_order(analyzer, clips):
    alone = {}
    for clip in clips:
        with psamf_edge.load(device="cpu") as fresh:
            alone[clip] = said(fresh(clip))
    for order in (clips[::-1], [clips[1], clips[2], clips[1], clips[0]]):
        for clip in order:
            assert said(analyzer(clip)) == alone[clip]


def test_another_process_order_and_company_write_the_same_bytes(clips, reference, tmp_path):
    (tmp_path / "junk.mp4").write_bytes(bytes(5000))
    cut = files.write_truncated(tmp_path / "cut.mp4", SAMPLE, 0.1)
    assert set(reference) == set(map(str, clips))
    assert scored(cut, clips[2], tmp_path / "junk.mp4", clips[1], tmp_path / "none.mp4", clips[0]) == reference


def test_seeds_and_threads_change_nothing(clips, reference):
    """All at once: where this fails, take them one by one."""
    seeds = {"PYTHONHASHSEED": "1", "OPENBLAS_NUM_THREADS": "4", "OMP_NUM_THREADS": "3"}
    assert scored("--threads", "3", *clips, **seeds) == reference


def test_no_number_of_threads_changes_a_bit_of_the_model():
    """Long inputs, which ONNX Runtime does split; short ones take one thread whatever is asked for."""
    from benchmarks.endurance.inferences import utterances

    bundle = open_bundle(None)
    inputs = utterances(bundle.shapes, 14, seed=0)
    outputs = []
    for threads in (1, 2, 5):
        with open_backend(bundle, "cpu", threads) as backend:
            outputs.append([backend.run(features) for features in inputs])
    assert outputs[0] == outputs[1] == outputs[2]


@pytest.mark.parametrize("codec", ["mpeg4", pytest.param("libx264", marks=pytest.mark.slow)])
def test_damage_looks_the_same_each_time_up_to_full_hd(tmp_path, codec):
    """With several threads, these decoders fill gaps from pictures that are not finished."""
    source = files.write_clip(tmp_path / "whole.mkv", 0.6, size=(1920, 1080), rate=None, video_codec=codec)
    path = files.write_damaged(tmp_path / "damaged.mkv", source)
    with MediaReader() as reader:
        reads = [[e for e in reader.read(path, max_side=320) if isinstance(e, Frame)] for _ in range(4)]
    assert len(reads[0]) >= 5
    for read in reads[1:]:
        assert [frame.time_ms for frame in read] == [frame.time_ms for frame in reads[0]]
        np.testing.assert_array_equal([frame.image for frame in read], [frame.image for frame in reads[0]])
