"""NaN and infinity are found and named wherever numbers come in: audio, frames, weights, labels, features."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import media_files as files
import numpy as np
import pytest

import psamf_edge
from psamf_edge.audio.features import extract_counted
from psamf_edge.dataset import read_rows
from psamf_edge.errors import InputError, IntegrityError, PsamfError, UsageError
from psamf_edge.media.events import Frame
from psamf_edge.media.reader import MediaReader
from psamf_edge.metrics import evaluate_scores

SAMPLE = Path(psamf_edge.__file__).parent / "data" / "sample.mp4"
BAD = [np.nan, np.inf, -np.inf]


def float_wav(path: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    """(N,) as 32-bit floating point, the one common format that can hold what is no number."""
    data = samples.astype("<f4").tobytes()
    fmt = b"fmt " + struct.pack("<IHHIIHH", 16, 3, 1, rate, 4 * rate, 4, 32)
    path.write_bytes(
        b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVE" + fmt + b"data" + struct.pack("<I", len(data)) + data
    )
    return path


def babble(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise in syllables, which passes for talk."""
    time = np.arange(int(16_000 * seconds)) / 16_000
    return np.random.default_rng(seed).normal(0, 0.1, len(time)) * np.clip(np.sin(4 * np.pi * time), 0.001, 1)


@pytest.fixture(scope="module")
def analyzer():
    with psamf_edge.load(device="cpu") as analyzer:
        yield analyzer


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("rate", [16_000, 44_100])  # as they are, and through the resampler
def test_samples_that_are_no_numbers_are_named_and_count_as_silence(analyzer, tmp_path, value, rate):
    samples = babble(2)
    samples[5000:5010] = value
    result = analyzer(float_wav(tmp_path / "talk.wav", samples, rate), text="It was good.")
    assert any("not numbers" in warning for warning in result.warnings)
    assert -3 <= result.score <= 3
    assert result.segments[0].modalities["audio"].state == "present"


def test_sound_of_nothing_but_nan(analyzer, tmp_path):
    path = float_wav(tmp_path / "nan.wav", np.full(32_000, np.nan))
    result = analyzer(path, text="It was good.")
    assert any("not numbers" in warning for warning in result.warnings)
    assert result.segments[0].modalities["audio"].state == "missing"
    with pytest.raises(PsamfError, match="not numbers"):
        analyzer(path)


def float_film(path: Path, value: float, form: str = "gbrpf32le") -> Path:
    """Pictures in floating point, grey but for `value` in their first rows."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=files.FPS, options={"level": "4", "strict": "experimental"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, form
        frame = av.VideoFrame(64, 48, form)
        for plane in frame.planes:
            numbers = np.full(plane.buffer_size // 4, 0.5, np.float32)
            numbers[:200] = value
            plane.update(numbers.tobytes())
        frame.pts, frame.time_base = 0, Fraction(1, files.FPS)
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return path


@pytest.mark.parametrize("value", [0.5, *BAD])
def test_pictures_that_may_hold_no_numbers_are_refused_by_name(analyzer, tmp_path, value):
    """To convert them is to make black or white of what is no number, and nobody would know."""
    with pytest.raises(InputError, match=r"floating-point numbers \(gbrpf32le\)"):
        analyzer(float_film(tmp_path / "film.mkv", value), text="It was good.")


def test_pictures_of_16_bits_hold_numbers_only(tmp_path):
    context = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 64, 48, "rgb48be", Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(files.picture(0), format="rgb24").reformat(format="rgb48be")
    path = tmp_path / "deep.png"
    path.write_bytes(b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)]))
    with MediaReader() as reader:
        (read,) = [event.image for event in reader.read(path) if isinstance(event, Frame)]
    assert np.abs(read.astype(int) - files.picture(0)).max() <= 1  # 16 bits are rounded to 8


@pytest.mark.parametrize("value", BAD)
def test_the_features_count_them(value):
    samples = babble(1)
    samples[[3, 700]] = value
    found = extract_counted(samples)
    assert found.bad_samples == 2
    assert np.isfinite(found.values).all()


@pytest.mark.parametrize("label", ["nan", "inf", "-inf", "NaN", "1e999", "3.01", "", "good", "0x1", "१e9"])
def test_labels_of_evaluate_are_named_with_their_line(tmp_path, label):
    (tmp_path / "rows.csv").write_text(f"id,text,label\na,fine,1\nb,fine,{label}\n", encoding="utf-8")
    with pytest.raises(UsageError, match="line 3: the label"):
        read_rows(tmp_path / "rows.csv")


@pytest.mark.parametrize("label", ["nan", "inf", "4", "", "good"])
def test_labels_of_training_are_named_with_their_line(tmp_path, label):
    pytest.importorskip("torch")
    from psamf_edge.compile.data.text import read_text_set
    from psamf_edge.words.wordpiece import WordPiece

    (tmp_path / "labels.csv").write_text(f"text,label,split\nfine,1,train\nfine,{label},train\n")
    vocabulary = WordPiece(b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nfine\n")
    with pytest.raises(UsageError, match="line 3: the label"):
        read_text_set(tmp_path / "labels.csv", "train", vocabulary, 16)


@pytest.mark.parametrize("value", BAD)
def test_metrics_take_none_of_them(value):
    for predictions, labels in (([1.0, value], [1.0, 2.0]), ([1.0, 2.0], [1.0, value])):
        with pytest.raises(UsageError, match="1 of 2"):
            evaluate_scores(predictions, labels)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_are_named_where_they_are_loaded(tmp_path, value, dtype):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    from psamf_edge.compile.model.storage import read_weights

    good = torch.ones(4, 4, dtype=getattr(torch, dtype))
    bad = good.clone()
    bad[1, 2] = value
    save_file({"head.weight": good, "block.3.bias": bad}, tmp_path / "student.safetensors")
    (tmp_path / "student.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"block\.3\.bias has 1 of 16 weights"):
        read_weights(tmp_path, "student")


@pytest.mark.parametrize("content", [b"", b"junk", struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 2) + b"{}x"])
def test_weights_that_are_no_file(tmp_path, content):
    pytest.importorskip("torch")
    from psamf_edge.compile.model.storage import read_weights

    (tmp_path / "student.json").write_text("{}")
    (tmp_path / "student.safetensors").write_bytes(content)
    with pytest.raises(IntegrityError, match="not a safetensors file"):
        read_weights(tmp_path, "student")
    (tmp_path / "student.json").write_text("{")
    with pytest.raises(IntegrityError, match="not valid JSON"):
        read_weights(tmp_path, "student")
