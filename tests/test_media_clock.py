"""The clip's clock where the file's own jumps: holes of many minutes, and recordings that were joined end to end."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import av
import media_files as files
import numpy as np
import pytest

from psamf_edge.media.events import AudioChunk, ClipFooter, Frame
from psamf_edge.media.parts import Parts
from psamf_edge.media.protocol import SAMPLE_RATE
from psamf_edge.media.reader import MediaReader
from psamf_edge.media.tracks import AudioTrack

MINUTES_12 = 720


@pytest.fixture(scope="module")
def reader():
    with MediaReader() as reader:
        yield reader


def tone_frame(start: int, seconds: float = 1.0) -> av.AudioFrame:
    """Sound that begins at the sample `start`."""
    frame = av.AudioFrame.from_ndarray(files.tone(seconds, SAMPLE_RATE), format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
    return frame


# Holes


def test_sound_behind_a_hole_of_many_minutes_keeps_its_time(reader, tmp_path):
    path = tmp_path / "hole.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        for start_s in (0, MINUTES_12):
            container.mux(stream.encode(tone_frame(start_s * SAMPLE_RATE)))
        container.mux(stream.encode(None))
    chunks = [event for event in reader.read(path) if isinstance(event, AudioChunk)]
    assert [chunk.start_ms for chunk in chunks] == list(range(0, 1000 * (MINUTES_12 + 1), 500))
    loud = [chunk.start_ms for chunk in chunks if chunk.samples.any()]
    assert loud == [0, 500, 1000 * MINUTES_12, 1000 * MINUTES_12 + 500]
    np.testing.assert_array_equal(chunks[-1].samples, chunks[1].samples)


def test_a_time_that_no_clip_passes_is_no_hole():
    sent = []
    track = AudioTrack(lambda kind, fields, payload: sent.append(payload), Fraction(1, SAMPLE_RATE), 0, seconds=60)
    for start in (0, 61 * SAMPLE_RATE, 62 * SAMPLE_RATE):
        track.push(tone_frame(start))
    track.finish()
    assert sum(map(len, sent)) == 4 * 3 * SAMPLE_RATE


# Joined recordings


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("part.ts", {}),
        ("part.mpg", {"size": (352, 288), "video_codec": "mpeg1video", "audio_codec": "mp2"}),
    ],
)
def test_pictures_and_sound_of_joined_recordings_stay_together(reader, tmp_path, name, options):
    part = files.write_clip(tmp_path / name, 2, **options)
    joined = tmp_path / f"joined-{name}"
    joined.write_bytes(3 * part.read_bytes())
    events = list(reader.read(joined))
    times = np.array([event.time_ms for event in events if isinstance(event, Frame)])
    footer = events[-1]
    assert isinstance(footer, ClipFooter)
    assert np.diff(times).max() < 250  # the grid is 100 ms; at a join the first picture and a bit of time are lost
    assert times[-1] > 5700  # of 6000
    assert abs(footer.samples / 16 - times[-1]) < 250


def packet(stream: int, ms: int | None, pts: int | None = None) -> SimpleNamespace:
    """As PyAV has it, on a clock of 90 kHz; a picture that is shown later than it is decoded has a `pts` of its own."""
    dts = None if ms is None else 90 * ms
    base = SimpleNamespace(index=stream, time_base=Fraction(1, 90_000))
    return SimpleNamespace(stream=base, dts=dts, pts=dts if pts is None else 90 * pts)


def moved(packets: list[SimpleNamespace]) -> list[int]:
    """Where the packets are put, in ms."""
    parts, reached_us = Parts(), 0
    for one in packets:
        parts.move(one, reached_us)
        if one.dts is not None:
            reached_us = max(reached_us, round(1000 * one.dts / 90))
    return [round(one.dts / 90) for one in packets]


def test_streams_of_a_new_part_are_moved_by_the_same_time():
    before = [packet(stream, ms) for ms in range(0, 3000, 20) for stream in (0, 1)]
    after = [packet(stream, ms + 10 * stream, ms + 80) for ms in range(500, 2000, 20) for stream in (0, 1)]
    times = moved(before + after)[len(before) :]
    shift = 2980 - 500
    # The second packet of a stream tells that the first was no mistake, and that one is left where it was.
    assert times[:2] == [500, 510]
    assert times[2:] == [shift + ms + 10 * stream for ms in range(520, 2000, 20) for stream in (0, 1)]
    assert all(one.pts - one.dts == 90 * (80 - 10 * one.stream.index) for one in after)


@pytest.mark.parametrize("wrong", [0, 9000])
def test_one_damaged_timestamp_is_no_new_part(wrong):
    times = list(range(2000, 3000, 20))
    times[20] = wrong
    assert moved([packet(0, ms) for ms in times]) == times


def test_a_stream_that_comes_to_its_next_part_late_is_not_put_where_the_last_one_was():
    """The pictures were cut off in the second part; in the third they are as far as its sound."""
    both = [packet(stream, ms) for ms in range(0, 3000, 20) for stream in (0, 1)]
    sound = [packet(1, ms) for ms in range(0, 3000, 20)]
    last = [packet(stream, ms) for ms in range(0, 3000, 20) for stream in (0, 1)]
    times = moved(both + sound + last)[len(both + sound) :]
    assert times[4:] == [5960 + ms for ms in range(40, 3000, 20) for _ in (0, 1)]


def test_packets_without_times_are_left_alone():
    one = SimpleNamespace(stream=SimpleNamespace(index=0, time_base=Fraction(1, 90_000)), dts=None, pts=None)
    Parts().move(one, 0)
    assert (one.pts, one.dts) == (None, None)
