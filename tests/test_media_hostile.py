"""Files that are broken or mean harm, and a decoder child that dies, hangs or lies: one sentence, and life goes on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import media_files as files
import numpy as np
import pytest

from psamf_edge.errors import InputError, UsageError
from psamf_edge.media import protocol, slots
from psamf_edge.media.answers import to_event
from psamf_edge.media.events import AudioChunk, ClipFooter, ClipHeader, Frame
from psamf_edge.media.protocol import Kind
from psamf_edge.media.reader import MediaReader

SDP = (
    b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)


@pytest.fixture(scope="module")
def reader():
    with MediaReader() as reader:
        yield reader


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def clip(folder):
    return files.write_clip(folder / "clip.mp4", 1)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(pid: int, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


# Files


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.mp4", None, "does not exist"),
        ("empty.mp4", b"", "is empty"),
        ("junk.mp4", np.random.default_rng(0).bytes(20_000), "no media file"),
        ("words.txt", b"hello world\n" * 100, "give mp4"),
        ("list.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nclip.mp4\n#EXT-X-ENDLIST\n", "give mp4"),
        ("list.ffconcat", b"ffconcat version 1.0\nfile 'clip.mp4'\n", "give mp4"),
        ("x.sdp", SDP, "give mp4"),
        ("x.srt", b"1\n00:00:00,000 --> 00:00:01,000\nHello\n", "give mp4"),
    ],
)
def test_files_that_are_no_clips(reader, folder, clip, name, content, message):
    path = folder / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        list(reader.read(path))
    assert name in str(caught.value)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_things_that_are_no_files(reader, folder):
    with pytest.raises(InputError, match="is a directory"):
        next(reader.read(folder))
    os.mkfifo(folder / "fifo")
    with pytest.raises(InputError, match="is a pipe"):
        next(reader.read(folder / "fifo"))
    with pytest.raises(InputError, match="is a pipe, socket or device"):
        next(reader.read("/dev/zero"))
    with pytest.raises(InputError, match="cannot be opened"):
        next(reader.read("a\0b"))


@pytest.mark.parametrize("address", ["http://example.org/a.mp4", "concat:a.mp4|b.mp4", "rtsp://example.org", "pipe:0"])
def test_addresses_are_refused(reader, address):
    with pytest.raises(InputError, match="only local files are read"):
        next(reader.read(address))


@pytest.mark.parametrize(
    "name", ["-i", "concat:a.mp4|b.mp4", "file:x", "pipe:0", "a\nb.mp4", "naïve \udc80.mp4", "%d.png"]
)
def test_names_are_only_names(reader, folder, clip, name, monkeypatch):
    (folder / "names").mkdir(exist_ok=True)
    monkeypatch.chdir(folder / "names")
    with open(name, "wb") as file:
        file.write(clip.read_bytes())
    assert isinstance(list(reader.read(name))[-1], ClipFooter)


def test_neither_picture_nor_sound(reader, folder):
    path = files.write_clip(folder / "words.mp4", size=None, rate=None, captions=[(0, 500, "Nobody speaks.")])
    with pytest.raises(InputError, match="neither video nor audio"):
        list(reader.read(path))


def test_missing_index(reader, folder, clip):
    with pytest.raises(InputError, match="index \\(moov\\) is missing"):
        list(reader.read(files.write_truncated(folder / "no-moov.mp4", clip)))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fragments.mp4", {"options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("faststart.mp4", {"options": {"movflags": "faststart"}}),
        ("clip.mkv", {}),
        ("clip.mpg", {"size": (352, 288), "video_codec": "mpeg1video", "audio_codec": "mp2"}),
        ("clip.webm", {"video_codec": "libvpx", "audio_codec": "libopus"}),
    ],
)
def test_truncated_files_give_what_they_hold(reader, folder, name, options):
    whole = files.write_clip(folder / name, 4, **options)
    path = files.write_truncated(folder / f"cut-{name}", whole)
    complete, events = list(reader.read(whole)), list(reader.read(path))
    assert not complete[-1].partial
    footer = events[-1]
    if not name.endswith("mpg"):  # cut between two packets, an MPEG stream is only a shorter one: it declares no length
        assert footer.partial
        assert footer.warnings
    assert 15 <= footer.frames <= 27  # half of 40; the container's interleaving moves the cut by some frames
    assert footer.samples > 16_000  # at least one second of the two
    assert footer.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    times = [event.time_ms for event in events if isinstance(event, Frame)]
    # The last frames before the cut may lack a B-frame, so that the next frame stands for their grid point.
    assert times[:-2] == [event.time_ms for event in complete if isinstance(event, Frame)][: len(times) - 2]


def test_damaged_packets_are_counted(reader, folder):
    whole = files.write_clip(folder / "whole.mkv", 4)
    footer = list(reader.read(files.write_damaged(folder / "damaged.mkv", whole)))[-1]
    assert footer.bad_packets > 0
    assert footer.partial
    assert f": {footer.bad_packets}." in footer.warnings[0]
    assert footer.frames > 30  # of 40; a damaged frame spoils no more than its group of pictures


def test_random_damage_never_stops_the_reader(reader, folder, clip):
    data, random = clip.read_bytes(), np.random.default_rng(1)
    for _ in range(40):
        damaged = bytearray(data)
        for at in random.integers(0, len(data), 20):
            damaged[at] = random.integers(256)
        (folder / "fuzz.mp4").write_bytes(damaged)
        with contextlib.suppress(InputError):  # any other error fails the test
            assert isinstance(list(reader.read(folder / "fuzz.mp4"))[-1], ClipFooter)
    assert not list(reader.read(clip))[-1].partial


def test_nothing_is_printed(folder, clip, capfd):
    damaged = files.write_damaged(folder / "noisy.mp4", clip, 101)
    with MediaReader() as reader:
        for _ in range(2):
            with contextlib.suppress(InputError):
                list(reader.read(damaged))
    assert capfd.readouterr() == ("", "")


# The child


def test_a_child_that_dies_midway(clip):
    with MediaReader() as reader:
        events = reader.read(clip)
        assert isinstance(next(events), ClipHeader)
        os.kill(reader._child._process.pid, signal.SIGKILL)
        with pytest.raises(InputError, match=r"clip\.mp4.* the decoder died"):
            list(events)
        assert isinstance(list(reader.read(clip))[-1], ClipFooter)


def test_a_child_that_died_between_clips(clip):
    with MediaReader() as reader:
        list(reader.read(clip))
        os.kill(reader._child._process.pid, signal.SIGKILL)
        reader._child._process.wait()
        assert isinstance(list(reader.read(clip))[-1], ClipFooter)


def test_a_child_that_hangs_is_killed_at_the_deadline(clip):
    with MediaReader() as reader:
        list(reader.read(clip))
        pid = reader._child._process.pid
        os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(InputError, match="passed its deadline"):
            list(reader.read(clip, deadline_s=0.2))
        assert 0.2 <= time.monotonic() - started < 5  # generous: the machine may be busy
        assert not is_running(pid)
        assert isinstance(list(reader.read(clip))[-1], ClipFooter)


def test_the_callers_own_time_does_not_count(folder):
    path = files.write_clip(folder / "slow.mp4", 1, size=(640, 480))  # 9 MB of frames: far more than the pipe holds
    with MediaReader() as reader:
        list(reader.read(path))
        events = reader.read(path, deadline_s=2)
        next(events)
        time.sleep(2.1)
        assert isinstance(list(events)[-1], ClipFooter)


def test_a_read_may_stop_at_the_footer(clip):
    with MediaReader() as reader:
        first = reader.read(clip)
        assert any(isinstance(event, ClipFooter) for event in first)  # any() stops there, and `first` stays alive
        pid = reader._child._process.pid
        assert isinstance(list(reader.read(clip))[-1], ClipFooter)
        assert reader._child._process.pid == pid
        first.close()


def test_a_read_that_is_given_up(clip):
    with MediaReader() as reader:
        events = reader.read(clip)
        next(events)
        with pytest.raises(UsageError, match="in the middle of another clip"):
            next(reader.read(clip))
        events.close()
        assert isinstance(list(reader.read(clip))[-1], ClipFooter)


def test_threads_take_turns(clip):
    footers = []
    with MediaReader() as reader:
        threads = [threading.Thread(target=lambda: footers.append(list(reader.read(clip))[-1])) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(footers) == 4
    assert len({footer.frames for footer in footers}) == 1


def test_close_reaps_and_may_be_repeated(clip):
    reader = MediaReader()
    process = reader._child._process
    reader.close()
    reader.close()
    assert process.returncode is not None
    assert isinstance(list(reader.read(clip))[-1], ClipFooter)
    reader.close()


@pytest.mark.parametrize("end", ["pass", "os.kill(os.getpid(), 9)"])
def test_the_child_ends_with_its_parent(end):
    start = "import os; from psamf_edge.media.reader import MediaReader; reader = MediaReader()"
    code = f"{start}; print(reader._child._process.pid, flush=True); {end}"
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
    assert wait_until_gone(pid)


def test_the_working_directory_is_no_part_of_the_child(folder, clip, monkeypatch):
    trap = folder / "trap"
    trap.mkdir()
    (trap / "av.py").write_text("raise SystemExit")
    (trap / "json.py").write_text("raise SystemExit")
    monkeypatch.chdir(trap)
    with MediaReader() as reader:
        assert isinstance(list(reader.read(clip))[-1], ClipFooter)


def test_only_the_child_loads_pyav_and_it_loads_no_numpy():
    for module, foreign in (("reader", "av"), ("worker", "numpy")):
        code = f"import sys, psamf_edge.media.{module}; sys.exit({foreign!r} in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0, (module, foreign)


def test_frames_are_streamed(folder, reader):
    path = files.write_clip(folder / "streamed.mp4", 3, size=(640, 480))
    list(reader.read(path))
    tracemalloc.start()
    try:
        count = sum(isinstance(event, Frame) for event in reader.read(path, frame_rate=25))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 75
    assert peak < 4 * 640 * 480 * 3  # bytes: the frame at hand, the one before it, and room for small things


# The memory that it shares


needs_slots = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no memfd here: the pipe carries all")


def frames_of(reader: MediaReader, path: Path, **options) -> list[Frame]:
    return [event for event in reader.read(path, **options) if isinstance(event, Frame)]


def test_frames_without_shared_memory_are_the_same(clip, reader, monkeypatch):
    monkeypatch.setattr(slots, "create", lambda: None)
    with MediaReader() as piped:
        assert piped._child._slots.size == 0
        pairs = list(zip(frames_of(piped, clip), frames_of(reader, clip), strict=True))
    assert len(pairs) > slots.SLOTS
    for through_pipe, through_slot in pairs:
        assert through_pipe.time_ms == through_slot.time_ms
        np.testing.assert_array_equal(through_pipe.image, through_slot.image)


@needs_slots
def test_frames_larger_than_a_slot_take_the_pipe(folder, reader):
    path = files.write_clip(folder / "full-hd.mp4", 0.4, size=(1920, 1080), rate=None)
    large, small = frames_of(reader, path, max_side=1920), frames_of(reader, path, max_side=480)
    assert large[0].image.nbytes > slots.SLOT_BYTES
    for one, other in zip(large, small, strict=True):
        middles = one.image[2::4, 2::4].astype(int)  # (270, 480, 3)
        assert np.abs(middles - other.image).mean() < 4  # the scaler also mixes the pixels around, at five edges


@needs_slots
def test_the_callers_frames_are_not_written_to_again(folder, reader):
    path = files.write_clip(folder / "kept.mp4", 2, rate=None)
    kept, now = [], []
    for event in reader.read(path, frame_rate=25):
        if isinstance(event, Frame):
            kept.append(event.image)
            now.append(event.image.copy())
    assert len(kept) > 2 * slots.SLOTS
    np.testing.assert_array_equal(kept, now)


@needs_slots
def test_the_child_cannot_take_the_memory_away():
    descriptor = slots.create()
    try:
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
        assert os.fstat(descriptor).st_size == slots.SLOTS * slots.SLOT_BYTES
    finally:
        os.close(descriptor)


def test_a_sandbox_without_memfd(monkeypatch):
    def forbidden(*arguments):
        raise PermissionError

    monkeypatch.setattr(os, "memfd_create", forbidden, raising=False)
    assert slots.create() is None


@needs_slots
@pytest.mark.parametrize(("slot", "size"), [(slots.SLOTS, 1), (-1, 1), ("0", 1), (None, 1), (True, 1), (0, 1 << 22)])
def test_slots_that_are_none(reader, slot, size):
    with pytest.raises(ValueError, match="slot"):
        reader._child.take(slot, size)


@needs_slots
def test_nothing_of_a_child_is_left_open(clip):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with MediaReader() as reader:
            list(reader.read(clip))
    del reader
    assert len(os.listdir("/proc/self/fd")) == before


# The wire


@pytest.mark.parametrize(
    "data",
    [
        protocol.PREFIX.pack(99, 2, 0) + b"{}",
        protocol.PREFIX.pack(Kind.FRAME, 2, 0) + b"[]",
        protocol.PREFIX.pack(Kind.FRAME, 3, 0) + b"{]}",
        protocol.PREFIX.pack(Kind.FRAME, protocol.MAX_FIELDS_BYTES + 1, 0),
        protocol.PREFIX.pack(Kind.FRAME, 2, protocol.MAX_PAYLOAD_BYTES + 1) + b"{}",
    ],
)
def test_messages_that_are_none(data):
    stream = iter([data[: protocol.PREFIX.size], data[protocol.PREFIX.size :]])
    with pytest.raises(protocol.ProtocolError):
        protocol.receive(lambda size: next(stream))


@pytest.mark.parametrize(
    ("kind", "fields", "size"),
    [
        (Kind.FRAME, {"time_ms": 0, "rotation": 0, "width": 4, "height": 4, "stride": 12}, 47),
        (Kind.FRAME, {"time_ms": 0, "rotation": 0, "width": 5, "height": 4, "stride": 12}, 48),
        (Kind.FRAME, {"time_ms": 0, "rotation": 0, "width": "4", "height": 4, "stride": 12}, 48),
        (Kind.FRAME, {"time_ms": 0, "rotation": 0, "width": 4, "height": -4, "stride": -12}, 48),
        (Kind.AUDIO, {"start_ms": 0}, 7),
        (Kind.AUDIO, {}, 8),
        (Kind.FOOTER, {"warnings": []}, 0),
        (Kind.FRAME, {"time_ms": 0, "rotation": 0, "width": 4, "height": -1, "stride": 12}, 48),
        (Kind.CAPTION, {"start_ms": "0", "end_ms": 1, "text": ""}, 0),
        (Kind.CAPTION, {"start_ms": float("inf"), "end_ms": 1, "text": ""}, 0),
        (Kind.HEADER, {"surprise": 1}, 0),
        (Kind.REQUEST, {}, 0),
    ],
)
def test_fields_that_do_not_fit(kind, fields, size):
    with pytest.raises((KeyError, TypeError, ValueError)):
        to_event(kind, fields, np.zeros(size, np.uint8), [], 60)


def test_a_message_survives_the_wire():
    data = protocol.pack(Kind.AUDIO, {"start_ms": 7}, 8)
    stream = iter([data[: protocol.PREFIX.size], data[protocol.PREFIX.size :]])
    assert protocol.receive(lambda size: next(stream)) == (Kind.AUDIO, {"start_ms": 7}, 8)
    event = to_event(Kind.AUDIO, {"start_ms": 7}, np.array([0.5, -0.5], np.float32).view(np.uint8), [], 60)
    assert isinstance(event, AudioChunk)
    np.testing.assert_array_equal(event.samples, [0.5, -0.5])
