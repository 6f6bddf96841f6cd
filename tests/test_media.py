"""The media reader against PyAV's own decode, the sampling grid, and every odd file we could think of."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction
from pathlib import Path

import av
import media_files as files
import numpy as np
import pytest

from psamf_edge.errors import InputError, UsageError
from psamf_edge.media.events import AudioChunk, Caption, ClipFooter, ClipHeader, Frame
from psamf_edge.media.reader import MediaReader
from psamf_edge.media.tracks import RgbScaler

SHARED_CLIPS = Path(__file__).parents[1].parent / "shared" / "data" / "clips"
SAMPLE = Path(__file__).parents[1] / "psamf_edge" / "data" / "sample.mp4"
CAPTIONS = [(0, 700, "Well, hello."), (900, 1500, "Naïve – but <i>good</i>.")]


@pytest.fixture(scope="module")
def reader():
    with MediaReader() as reader:
        yield reader


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def clip(folder):
    return files.write_clip(folder / "clip.mp4", captions=CAPTIONS)


class Read:
    """One whole read, sorted by kind."""

    def __init__(self, reader: MediaReader, path: Path, **options) -> None:
        self.events = list(reader.read(path, **options))
        self.header, self.footer = self.events[0], self.events[-1]
        assert isinstance(self.header, ClipHeader)
        assert isinstance(self.footer, ClipFooter)
        self.frames = [event for event in self.events if isinstance(event, Frame)]
        self.chunks = [event for event in self.events if isinstance(event, AudioChunk)]
        self.captions = [event for event in self.events if isinstance(event, Caption)]
        self.times = [frame.time_ms for frame in self.frames]
        self.samples = np.concatenate([chunk.samples for chunk in self.chunks] or [np.zeros(0, np.float32)])
        assert len(self.events) == 2 + len(self.frames) + len(self.chunks) + len(self.captions)
        assert self.footer.frames == len(self.frames)
        assert self.footer.samples == len(self.samples)


def decoded_times(path: Path) -> list[float]:
    """Every frame's time in seconds, by PyAV alone, from the start of the container."""
    with av.open(str(path)) as container:
        return [frame.time - (container.start_time or 0) / 1e6 for frame in container.decode(video=0)]


def grid_times(times: list[float], frame_rate: float) -> list[int]:
    """The contract in plain loops: for each grid point the first frame at or after it, each frame once."""
    chosen = []
    for k in range(math.ceil(max(times) * frame_rate) + 1):
        later = [time for time in times if time > k / frame_rate - 0.0005]  # half of Matroska's 1 ms clock
        if later and later[0] not in chosen:
            chosen.append(later[0])
    return [round(time * 1000) for time in chosen]


def decoded_audio(path: Path) -> np.ndarray:
    """The first audio stream at 16 kHz mono, by PyAV's resampler alone."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("fltp", "mono", 16_000)
        blocks = [out.to_ndarray()[0] for frame in container.decode(audio=0) for out in resampler.resample(frame)]
        return np.concatenate(blocks + [out.to_ndarray()[0] for out in resampler.resample(None)])


def test_a_clip_gives_header_frames_sound_captions_and_footer(reader, clip):
    read = Read(reader, clip)
    assert read.header == ClipHeader(2000, True, True, 64, 48, 0, False, "mov,mp4,m4a,3gp,3g2,mj2")
    assert read.times == grid_times(decoded_times(clip), 10)
    assert read.times[:8] == [0, 120, 200, 320, 400, 520, 600, 720]  # at 25 frames a second, every 40 ms
    assert read.frames[0].image.shape == (48, 64, 3)
    assert read.frames[0].image.dtype == np.uint8
    assert read.captions == [Caption(0, 700, "Well, hello."), Caption(900, 1500, "Naïve – but <i>good</i>.")]
    assert read.footer.sha256 == hashlib.sha256(clip.read_bytes()).hexdigest()
    assert not read.footer.partial
    assert read.footer.warnings == []
    assert abs(read.footer.duration_ms - 2000) <= 43  # AAC rounds up to two frames of 1024 samples


def test_pictures_are_those_of_pyav(reader, clip):
    read = Read(reader, clip)
    with av.open(str(clip)) as container:
        decoded = {round(frame.time * 1000): frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)}
    for frame in read.frames:
        # At equal size only the interpolation of chroma can differ: a few steps at the edges of the coloured squares.
        assert np.abs(frame.image.astype(int) - decoded[frame.time_ms]).mean() < 1


@pytest.mark.parametrize("frame_rate", [1, 3, 10, 12.5, 25, 29.97, 60])
def test_frames_follow_the_fixed_grid(reader, clip, frame_rate):
    assert Read(reader, clip, audio=False, frame_rate=frame_rate).times == grid_times(decoded_times(clip), frame_rate)


def test_a_long_clip_does_not_drift(reader, folder):
    path = files.write_clip(folder / "long.mp4", 60, size=(16, 16), rate=None)
    times = Read(reader, path).times
    assert len(times) == 600
    assert all(0 <= time - 100 * k < 40 for k, time in enumerate(times))


def test_variable_frame_rate(reader, folder):
    frame_ms = [0, 10, 95, 100, 350, 351, 800, 1999]
    path = files.write_clip(folder / "vfr.mkv", rate=None, frame_ms=frame_ms)
    assert Read(reader, path).times == [0, 100, 350, 800, 1999]


@pytest.mark.parametrize(
    ("rate", "channels", "codec", "suffix"),
    [
        (44_100, 2, "aac", "mp4"),
        (16_000, 1, "aac", "m4a"),
        (8_000, 1, "pcm_s16le", "wav"),
        (16_000, 1, "pcm_s16le", "wav"),
        (44_100, 2, "flac", "flac"),
        (48_000, 2, "libopus", "opus"),
        (44_100, 1, "libmp3lame", "mp3"),
    ],
)
def test_sound_is_that_of_pyav(reader, folder, rate, channels, codec, suffix):
    path = files.write_clip(
        folder / f"sound-{codec}-{rate}.{suffix}", size=None, rate=rate, channels=channels, audio_codec=codec
    )
    read, oracle = Read(reader, path), decoded_audio(path)
    assert not read.header.has_video
    assert read.footer.warnings == []
    assert read.chunks[0].start_ms == 0
    assert 0 <= len(oracle) - len(read.samples) < 0.005 * 16_000  # the resampler's tail, a few ms, is cut
    np.testing.assert_array_equal(read.samples, oracle[: len(read.samples)])
    assert all(chunk.samples.dtype == np.float32 for chunk in read.chunks)


def test_chunks_follow_each_other(reader, clip):
    read = Read(reader, clip)
    position = 0
    for chunk in read.chunks:
        assert chunk.start_ms == round(position / 16)
        position += len(chunk.samples)


def test_a_tone_keeps_its_level_and_length(reader, folder):
    path = files.write_clip(folder / "tone.wav", 3, size=None, rate=44_100, audio_codec="pcm_s16le")
    read = Read(reader, path)
    assert len(read.samples) == 48_000
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(48_000) / 16_000)
    # int16 steps are 3e-5; the resampler's pass band ripples by less than 1e-3. The filter's ends are left out.
    assert np.abs(read.samples - expected)[100:-100].max() < 1e-3


def test_one_clock_for_all_streams(reader, folder):
    plain = Read(reader, files.write_clip(folder / "zero.mkv", audio_codec="pcm_s16le"))
    moved = Read(reader, files.write_clip(folder / "moved.mkv", audio_codec="pcm_s16le", offset_ms=5000))
    assert moved.times == plain.times
    assert [chunk.start_ms for chunk in moved.chunks] == [chunk.start_ms for chunk in plain.chunks]
    np.testing.assert_array_equal(moved.samples, plain.samples)


def test_sound_that_starts_late(reader, folder):
    read = Read(reader, files.write_clip(folder / "late.mkv", audio_codec="pcm_s16le", audio_delay_ms=500))
    assert read.times[0] == 0
    assert read.chunks[0].start_ms == 500
    assert read.footer.duration_ms == 2500


def test_a_hole_in_the_sound_becomes_silence(reader, folder):
    path = folder / "hole.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for start in (0, 16_000):  # half a second of tone, half a second of nothing, twice
            frame = av.AudioFrame.from_ndarray(files.tone(0.5, 16_000), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, start, Fraction(1, 16_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    samples = Read(reader, path).samples
    assert len(samples) == 24_000
    assert np.all(samples[8_000:16_000] == 0)
    np.testing.assert_array_equal(samples[16_000:], samples[:8_000])


def test_video_or_sound_alone(reader, folder):
    silent = Read(reader, files.write_clip(folder / "silent.mp4", rate=None))
    assert (silent.header.has_video, silent.header.has_audio, silent.chunks) == (True, False, [])
    dark = Read(reader, files.write_clip(folder / "dark.m4a", size=None))
    assert (dark.header.has_video, dark.header.has_audio, dark.frames) == (False, True, [])
    assert silent.footer.warnings == dark.footer.warnings == []


def test_what_is_not_wanted_is_not_decoded(reader, clip):
    sound = Read(reader, clip, video=False)
    assert (sound.frames, sound.header.has_video, sound.footer.partial) == ([], True, False)
    pictures = Read(reader, clip, audio=False)
    assert (pictures.chunks, pictures.header.has_audio, pictures.footer.partial) == ([], True, False)
    assert pictures.footer.duration_ms == 2000
    neither = Read(reader, clip, video=False, audio=False)
    assert neither.captions
    assert not neither.footer.partial


@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_frames_are_turned_upright(reader, folder, clip, degrees):
    read = Read(reader, files.write_rotated(folder / f"turned{degrees}.mp4", clip, degrees))
    upright = np.rot90(Read(reader, clip).frames[0].image, -degrees // 90)  # numpy turns the other way round
    np.testing.assert_array_equal(read.frames[0].image, upright)
    assert read.frames[0].image.flags.c_contiguous
    assert (read.header.width, read.header.height) == ((64, 48) if degrees == 180 else (48, 64))
    assert read.header.rotation == -degrees % 360


def test_odd_sizes(reader, folder):
    read = Read(reader, files.write_clip(folder / "odd.mp4", size=(33, 17), rate=None))
    assert {frame.image.shape for frame in read.frames} == {(17, 33, 3)}
    red, green, blue = read.frames[0].image[4, 4], read.frames[0].image[4, 28], read.frames[0].image[13, 4]
    assert (red.argmax(), green.argmax(), blue.argmax()) == (0, 1, 2)


def test_downscale_keeps_the_shape_of_the_picture(reader, folder):
    path = files.write_clip(folder / "large.mp4", 0.2, size=(1280, 720), rate=None)
    read = Read(reader, path)
    assert {frame.image.shape for frame in read.frames} == {(360, 640, 3)}
    assert (read.header.width, read.header.height) == (1280, 720)
    assert Read(reader, path, max_side=100).frames[0].image.shape == (56, 100, 3)


def test_pixels_that_are_not_square(reader, folder):
    path = files.write_clip(folder / "wide.mp4", 0.2, size=(64, 48), rate=None, pixel_aspect=Fraction(4, 3))
    read = Read(reader, path)
    assert read.frames[0].image.shape == (48, 85, 3)
    assert (read.header.width, read.header.height) == (85, 48)


def test_one_scaler_serves_frames_of_any_size_and_format():
    """A broadcast may change both midway; PyAV's scaler of each frame's own is the measure."""
    rng = np.random.default_rng(0)
    scaler = RgbScaler(max_side=64)
    for pixel_format in ["yuv420p", "rgb24", "gray", "yuv444p", "yuv420p10le", "yuv420p"]:
        for size in [(48, 64, 3), (2, 90, 3), (32, 32, 3), (32, 32, 3)]:
            picture = av.VideoFrame.from_ndarray(rng.integers(0, 256, size, dtype=np.uint8), format="rgb24")
            frame = picture.reformat(format=pixel_format)
            fields, plane = scaler.convert(frame, aspect=1.0)
            height, width, stride = fields["height"], fields["width"], fields["stride"]
            got = np.frombuffer(plane, np.uint8).reshape(height, stride)[:, : 3 * width].reshape(height, width, 3)
            expected = frame.reformat(width, height, "rgb24", interpolation="BILINEAR", threads=1).to_ndarray()
            np.testing.assert_array_equal(got, expected)


def test_one_frame(reader, folder):
    read = Read(reader, files.write_clip(folder / "one.mp4", 0.04, rate=None))
    assert read.times == [0]
    assert read.footer.duration_ms == 40


@pytest.mark.parametrize("name", ["still.png", "still.jpg"])
def test_images_give_one_frame(reader, folder, name):
    read = Read(reader, files.write_image(folder / name))
    assert read.header.is_image
    assert read.header.duration_ms == read.footer.duration_ms == 0
    assert read.times == [0]
    # JPEG rounds; PNG does not, and both were made from the same array.
    assert np.abs(read.frames[0].image.astype(int) - files.picture(0, 33, 17)).mean() < (
        4 if name.endswith("jpg") else 0.01
    )


def test_markup_of_captions_is_removed(reader, folder):
    path = folder / "subrip.mkv"
    with av.open(str(path), "w") as container:
        audio = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        text = container.add_stream("srt")
        text.codec_context.subtitle_header = files.ASS_HEADER
        frame = av.AudioFrame.from_ndarray(files.tone(1, 16_000), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
        container.mux(audio.encode(frame))
        packet = av.Packet(b"<i>Two</i>\r\nlines")
        packet.stream, packet.time_base, packet.pts, packet.dts, packet.duration = (
            text,
            Fraction(1, 1000),
            100,
            100,
            500,
        )
        container.mux(packet)
    assert Read(reader, path).captions == [Caption(100, 600, "Two\nlines")]


def test_samples_that_are_no_numbers_become_silence(reader, folder):
    path = folder / "nan.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=16_000, layout="mono")
        samples = np.full((1, 1600), 0.25, np.float32)
        samples[0, 100], samples[0, 200] = np.nan, np.inf
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
        container.mux([*stream.encode(frame), *stream.encode(None)])
    read = Read(reader, path)
    np.testing.assert_array_equal(read.samples, np.where(np.isfinite(samples[0]), 0.25, 0))
    assert "not numbers" in read.footer.warnings[0]


def test_two_reads_are_equal(reader, clip):
    first, second = Read(reader, clip), Read(reader, clip)
    assert first.times == second.times
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first.frames, second.frames, strict=True))
    np.testing.assert_array_equal(first.samples, second.samples)
    assert first.footer == second.footer


def test_the_sample_clip(reader):
    if not SAMPLE.exists():
        pytest.skip("psamf_edge/data/sample.mp4 was not built: run benchmarks/make_sample_clip.py")
    read = Read(reader, SAMPLE)
    assert (read.header.width, read.header.height, read.footer.warnings) == (640, 480, [])
    assert len(read.captions) == 3
    assert SAMPLE.stat().st_size <= 350_000


@pytest.mark.skipif(not SHARED_CLIPS.is_dir(), reason="the clips of ../shared/data/clips are not here")
def test_clips_from_the_wild(reader):
    paths = sorted(SHARED_CLIPS.iterdir())
    assert len(paths) == 9
    for path in paths:
        read = Read(reader, path, max_side=128)
        assert read.times == grid_times(decoded_times(path), 10), path.name
        if read.header.has_audio:
            oracle = decoded_audio(path)
            count = min(len(oracle), len(read.samples))
            assert count > 0.99 * len(oracle)
            np.testing.assert_array_equal(read.samples[:count], oracle[:count], err_msg=path.name)


@pytest.mark.parametrize(
    "option", [{"frame_rate": 0}, {"frame_rate": float("nan")}, {"frame_rate": 1e9}, {"max_side": 4}]
)
def test_options_out_of_range(reader, clip, option):
    with pytest.raises(UsageError, match="give a number"):
        next(reader.read(clip, **option))
    with pytest.raises(InputError, match="does not exist"):
        next(reader.read("nowhere.mp4"))
