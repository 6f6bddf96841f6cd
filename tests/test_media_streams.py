"""Which of a file's streams is read, and when a file is called damaged though it is whole."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import media_files as files
import pytest
from av.stream import Disposition

from psamf_edge.media.events import AudioChunk, Caption, Event
from psamf_edge.media.reader import MediaReader

RATE = 16_000
FIRST, DEFAULT = Disposition(0), Disposition.default


@pytest.fixture(scope="module")
def reader():
    with MediaReader() as reader:
        yield reader


def mark(stream: av.stream.Stream, language: str | None, disposition: Disposition) -> None:
    stream.disposition = disposition
    if language:
        stream.metadata["language"] = language


def write_tracks(path: Path, tracks: list[tuple[str | None, Disposition]]) -> Path:
    """Sound tracks of a second, the k-th of k + 1 tenths of a second of tone and then silence."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in tracks]
        for stream, track in zip(streams, tracks, strict=True):  # all of them before the header is written
            mark(stream, *track)
        for k, stream in enumerate(streams):
            samples = files.tone(1, RATE)
            samples[:, (k + 1) * RATE // 10 :] = 0
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            container.mux([*stream.encode(frame), *stream.encode(None)])
    return path


def heard(events: list[Event]) -> int:
    """Which track of `write_tracks` it was."""
    samples = next(event.samples for event in events if isinstance(event, AudioChunk))
    return round(10 * samples.nonzero()[0].max() / RATE) - 1


@pytest.mark.parametrize(
    ("tracks", "chosen"),
    [
        ([(None, FIRST), (None, FIRST)], 0),
        ([(None, FIRST), (None, DEFAULT)], 1),
        ([("ger", DEFAULT), ("eng", FIRST)], 1),
        ([("ger", FIRST), ("fre", DEFAULT)], 1),
        ([("eng", FIRST), ("ger", FIRST), ("eng", DEFAULT)], 2),
        ([(None, DEFAULT), ("eng", FIRST)], 0),  # a commentary, perhaps: only one language is declared
    ],
)
def test_sound_in_english_then_the_default_then_the_first(reader, tmp_path, tracks, chosen):
    path = write_tracks(tmp_path / "tracks.mkv", tracks)
    assert heard(list(reader.read(path))) == chosen


@pytest.mark.parametrize(
    ("tracks", "chosen"),
    [
        ([("ger", DEFAULT), ("eng", FIRST)], 1),
        ([(None, DEFAULT), ("eng", FIRST)], 1),
        ([("ger", FIRST), ("fre", DEFAULT)], 1),
        ([(None, FIRST), (None, FIRST)], 0),
        ([("eng", FIRST), ("eng", DEFAULT)], 1),
    ],
)
def test_captions_in_english_then_the_default_then_the_first(reader, tmp_path, tracks, chosen):
    path = tmp_path / "captions.mkv"
    with av.open(str(path), "w") as container:
        audio = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        texts = [container.add_stream("srt") for _ in tracks]
        for stream, track in zip(texts, tracks, strict=True):
            stream.codec_context.subtitle_header = files.ASS_HEADER
            mark(stream, *track)
        frame = av.AudioFrame.from_ndarray(files.tone(1, RATE), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        container.mux(audio.encode(frame))
        for k, stream in enumerate(texts):
            packet = av.Packet(f"Track {k}.".encode())
            packet.stream, packet.time_base = stream, Fraction(1, 1000)
            packet.pts, packet.dts, packet.duration = 100, 100, 500
            container.mux(packet)
    captions = [event for event in reader.read(path) if isinstance(event, Caption)]
    assert captions == [Caption(100, 600, f"Track {chosen}.")]


def write_piped_wav(path: Path, size: bytes, data_bytes: int = 2 * RATE) -> Path:
    """A WAV whose header was written before its length was known."""
    whole = files.write_clip(path, 1, size=None, rate=RATE, audio_codec="pcm_s16le")
    data = bytearray(whole.read_bytes())
    at = data.index(b"data") + 4
    data[4:8] = data[at : at + 4] = size
    path.write_bytes(data[: at + 4 + data_bytes])
    return path


@pytest.mark.parametrize("size", [b"\xff\xff\xff\xff", b"\0\0\0\0"])
def test_a_wav_from_a_pipe_is_whole(reader, tmp_path, size):
    footer = list(reader.read(write_piped_wav(tmp_path / "piped.wav", size)))[-1]
    assert (footer.samples, footer.bad_packets, footer.warnings, footer.partial) == (RATE, 0, [], False)


def test_a_wav_that_was_cut_off_is_damaged(reader, tmp_path):
    size = (2 * RATE).to_bytes(4, "little")
    footer = list(reader.read(write_piped_wav(tmp_path / "cut.wav", size, 2 * RATE - 100)))[-1]
    assert (footer.samples, footer.bad_packets, footer.partial) == (RATE - 50, 1, True)
