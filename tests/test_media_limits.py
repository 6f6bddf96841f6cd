"""Each cap on a clip, by the reader, the library and the command line; and pictures that change size midway."""

from __future__ import annotations

import json
import os
import resource
from dataclasses import asdict
from fractions import Fraction

import av
import media_files as files
import numpy as np
import pytest
from click.testing import CliRunner
from fake_analyzer import FakeAnalyzer

import psamf_edge
from psamf_edge.cli import main
from psamf_edge.errors import InputError, UsageError
from psamf_edge.media.events import ClipFooter, Frame
from psamf_edge.media.limits import LARGEST, Limits
from psamf_edge.media.reader import MediaReader


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return files.write_clip(tmp_path_factory.mktemp("media") / "clip.mp4", 2)


def read(path, **limits):
    with MediaReader(Limits.of(limits)) as reader:
        return list(reader.read(path))


def write_sizes(path, sizes, codec="mjpeg"):
    """A picture of each size, 40 ms apart, in one stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=files.FPS)
        stream.width, stream.height = sizes[0]
        stream.pix_fmt = "yuvj420p"
        for index, size in enumerate(sizes):
            encoder = av.CodecContext.create(codec, "w")
            encoder.width, encoder.height = size
            encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, files.FPS)
            frame = av.VideoFrame.from_ndarray(files.picture(index, *size), format="rgb24").reformat(format="yuvj420p")
            frame.pts = index
            for packet in [*encoder.encode(frame), *encoder.encode(None)]:
                packet.stream, packet.pts, packet.dts, packet.time_base = stream, index, index, Fraction(1, files.FPS)
                container.mux(packet)
    return path


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"bytes": 1000}, "at most 1000 are read: cut it, convert it, or raise the limit bytes"),
        ({"pixels": 64 * 48 - 1}, "pictures of more than 3071 pixels"),
        ({"streams": 1}, "has 2 streams; at most 1 are read"),
        ({"frame_rate": 10}, "more than 10 pictures a second"),
    ],
)
def test_a_clip_beyond_a_cap_is_refused(clip, limits, message):
    with pytest.raises(InputError, match=message) as caught:
        read(clip, **limits)
    assert next(iter(limits)) in str(caught.value)
    assert "clip.mp4" in str(caught.value)


def test_a_clip_at_its_caps_is_read(clip):
    events = read(clip, bytes=clip.stat().st_size, pixels=64 * 48, streams=2, frame_rate=25, seconds=3, packets=10_000)
    assert not events[-1].partial


def test_of_a_long_clip_the_first_seconds_are_read(tmp_path):
    events = read(files.write_clip(tmp_path / "long.mp4", 8), seconds=3)
    footer = events[-1]
    assert footer.partial
    assert footer.warnings == ["Only the first 3 s were read."]
    assert 29 <= footer.frames <= 31
    assert 2.8 < footer.samples / 16_000 < 3.2


def test_of_many_packets_the_first_are_read(clip):
    footer = read(clip, packets=20)[-1]
    assert 0 < footer.frames < 20
    assert footer.warnings[0].startswith("Only the first 20 packets were read, of ")


def test_a_deadline_of_ones_own(clip, tmp_path):
    """A second is enough for a clip of two, and not for four hours of silence."""
    from tests.attacks.media import sparse_wav

    with MediaReader(Limits.of({"deadline": 60})) as reader:
        assert isinstance(list(reader.read(clip))[-1], ClipFooter)  # the child has started
    with MediaReader(Limits.of({"deadline": 1})) as reader, pytest.raises(InputError, match="raise the limit deadline"):
        list(reader.read(sparse_wav(tmp_path / "long.wav", 14_000)))
    assert Limits().deadline_s(10) == 60
    assert Limits().deadline_s(600) == 2400
    assert Limits.of({"seconds": 100}).deadline_s(600) == 400


def cpu_limit_s(reader):
    return resource.prlimit(reader._child._process.pid, resource.RLIMIT_CPU)[0]


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="asks for another process's limits: Linux alone can")
def test_a_recording_that_declares_no_length_earns_time_as_it_goes(tmp_path):
    """As browsers record, or as a recorder that crashed leaves it; 30 s of clip are worth 120 s of waiting."""
    live = files.write_clip(
        tmp_path / "live.mkv", size=(16, 16), rate=None, frame_ms=range(0, 30_000, 500), options={"live": "1"}
    )
    with MediaReader() as reader:
        events = reader.read(live)
        assert next(events).duration_ms == 0
        assert reader._child.patience_s <= 60
        assert isinstance(list(events)[-1], ClipFooter)
        assert 60 < reader._child.patience_s <= 118  # the last picture is at 29.5 s
        assert 4 * 110 < cpu_limit_s(reader) < 4 * 130  # four threads; CPU time counts from when the child started
        for limits, most in [({"seconds": 20}, 80), ({"deadline": 70}, 70)]:
            reader.limits = Limits.of(limits)
            list(reader.read(live))
            assert reader._child.patience_s <= most
            assert cpu_limit_s(reader) < 4 * (most + 10)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"colour": 3}, "There is no limit 'colour'; choose from bytes, seconds, pixels"),
        ({"bytes": 0}, "The limit bytes is 0"),
        ({"bytes": -1}, "The limit bytes is -1"),
        ({"bytes": 1.5}, "The limit bytes is 1.5"),
        ({"bytes": True}, "The limit bytes is True"),
        ({"bytes": "9"}, "The limit bytes is '9'"),
        ({"seconds": LARGEST + 1}, "The limit seconds is"),
    ],
)
def test_limits_that_are_none(limits, message):
    with pytest.raises(UsageError, match=message):
        Limits.of(limits)
    with pytest.raises(UsageError, match=message):
        psamf_edge.load(limits=limits)


def test_the_library_takes_limits(clip):
    with psamf_edge.load(device="cpu", limits={"seconds": 1}) as analyzer:
        result = analyzer(clip, text="It was good.")
    assert "Only the first 1 s were read." in result.warnings
    assert result.duration_ms < 1200


def test_the_command_line_takes_limits(clip, monkeypatch):
    fake = FakeAnalyzer()
    monkeypatch.setattr("psamf_edge.cli.options.Analyzer", fake.open)
    done = CliRunner().invoke(main, ["infer", str(clip), "--limit", "seconds=600", "--limit", "streams=4"])
    assert done.exit_code == 0
    assert fake.limits == {"seconds": 600, "streams": 4}
    for wrong in ("seconds", "seconds=", "seconds=ten", "seconds=-1", "=3", "seconds=" + "9" * 10_000, "colour=3"):
        done = CliRunner().invoke(main, ["infer", str(clip), "--limit", wrong])
        assert done.exit_code == 2, wrong
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""


@pytest.mark.parametrize("command", ["infer", "evaluate", "extract", "bench"])
def test_help_names_every_limit(command):
    text = " ".join(CliRunner().invoke(main, [command, "--help"]).stdout.split())
    assert all(f"{name} " in text for name in asdict(Limits()))


def test_pictures_that_change_size_midway(tmp_path):
    path = write_sizes(tmp_path / "changing.avi", [(64, 48)] * 5 + [(160, 90)] * 5 + [(48, 64)] * 5)
    with MediaReader() as reader:
        events = list(reader.read(path, frame_rate=25))
    shapes = [event.image.shape for event in events if isinstance(event, Frame)]
    assert shapes == [(48, 64, 3)] * 5 + [(90, 160, 3)] * 5 + [(64, 48, 3)] * 5
    assert not events[-1].partial
    with psamf_edge.load(device="cpu") as analyzer:
        assert -3 <= analyzer(path, text="It was good.").score <= 3


def test_pictures_that_grow_beyond_the_cap_midway(tmp_path):
    path = write_sizes(tmp_path / "growing.avi", [(64, 48)] * 5 + [(1600, 900)] * 3 + [(64, 48)] * 5)
    events = read(path, pixels=100_000)
    shapes = {event.image.shape for event in events if isinstance(event, Frame)}
    assert shapes == {(48, 64, 3)}
    assert events[-1].bad_packets == 3
    assert "not decodable: 3." in events[-1].warnings[0]


def test_codecs_that_are_not_on_the_list(tmp_path):
    path = tmp_path / "animation.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("qtrle", rate=files.FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(InputError, match=r"neither video nor audio .* \(it is in qtrle: convert it\)"):
        read(path)


def test_a_codec_that_is_left_out_is_named(tmp_path):
    path = tmp_path / "half.mkv"
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("mpeg4", rate=files.FPS), container.add_stream("tta", rate=48_000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for index in range(25):
            container.mux(video.encode(av.VideoFrame.from_ndarray(files.picture(index), format="rgb24")))
        frame = av.AudioFrame.from_ndarray(files.tone(1, 48_000), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
        container.mux([*video.encode(None), *audio.encode(frame), *audio.encode(None)])
    events = read(path)
    assert not events[0].has_audio
    assert "What is in the codec tta was left out: it is not decoded here." in events[-1].warnings


def test_bad_frames_are_counted_for_the_user(tmp_path):
    whole = files.write_clip(tmp_path / "whole.mkv", 4)
    damaged = files.write_damaged(tmp_path / "damaged.mkv", whole)
    damaged.with_suffix(".txt").write_text("It was good.")
    done = CliRunner().invoke(main, ["infer", str(damaged)])
    assert done.exit_code == 0
    (warning,) = [
        text for text in json.loads(done.stdout)["warnings"] if text.startswith("The file is damaged: packets")
    ]
    assert int(warning.rstrip(".").split()[-1]) > 0
    assert f"warning: {warning}" in done.stderr
    assert os.linesep not in warning
