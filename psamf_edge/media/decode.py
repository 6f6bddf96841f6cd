"""Decodes one clip into messages. Runs in the decoder child only: FFmpeg meets hostile files here."""

from __future__ import annotations

import errno
import itertools
import os
import re
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import av
import av.audio.codeccontext
import av.stream
import av.subtitles.codeccontext
import av.subtitles.stream
import av.subtitles.subtitle
import av.video.codeccontext

from psamf_edge.media.allowed import DECODERS, DEMUXERS, FILES, TEXT_DECODERS
from psamf_edge.media.limits import Limits
from psamf_edge.media.parts import RESTARTING, Parts
from psamf_edge.media.protocol import Kind
from psamf_edge.media.tracks import AudioTrack, Emit, FrameGrid, RgbScaler

# Their headers state the length of the recording; the others have it estimated from bit rate or the file's own end.
DECLARES_DURATION = {"mov", "matroska", "avi", "flv", "asf", "wav", "aiff", "flac"}
ENGLISH = {"en", "eng"}  # in tags of ISO 639-1 and -2
MISSING_END_S = 1.0  # a file that ends this much before its declared end lost something; muxers round by less
ASS_OVERRIDE = re.compile(r"\{\\[^}]*\}")  # FFmpeg decodes every text subtitle to ASS: italics come as {\i1}
PROBED_STREAMS = 1000  # as FFmpeg has it: beyond, it gives up over a file before it can be asked what is in it
WAV_CHUNK = struct.Struct("<4sI")  # name, size; chunks begin at even places
RIFF_HEADER_BYTES = 12
MAX_WAV_CHUNKS = 100  # before the sound; editors write a handful
FLOAT_PIXELS = re.compile("f(16|32)[lb]e$")  # formats whose numbers may be none; no camera writes them
MAX_HELD = 1000  # messages held back while the first frame, which alone knows the rotation, is awaited
DECODER_THREADS = 4  # more only adds latency and memory for talking-head sizes
# Up to Full HD one thread: with more, the decoders of H.264, HEVC and MPEG-4 fill what damage left out from pictures
# that another thread has not finished, and the same clip differs from one time to the next. Two threads also decode
# 640 x 480 no sooner, and take 40 % more of the two cores they share.
PIXELS_PER_THREAD = 1 << 21
# Tags need not be UTF-8. PyAV before 19 refuses a clip over them unless told otherwise; later ones never do.
ANY_TAGS = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


class ClipError(Exception):
    """The clip cannot be used; the message is the rest of a sentence that begins with its path."""


class Clip:
    """One file, opened once: the bytes that are hashed are the bytes that are decoded."""

    def __init__(self, file: BinaryIO, request: dict[str, Any], emit: Emit) -> None:
        self.request, self._emit, self._held = request, emit, []
        self.limits = Limits(**request["limits"])
        self.frames = self.samples = self.bad_packets = self.bad_frames = 0
        self.end_us = self._reached_us = self._seen = 0
        self._stopped = False  # at a limit, so that the rest of the file is not missing
        self.warnings: list[str] = []
        self.container = _open_container(file, self.limits)
        # FFmpeg misses the rest of such a file's last packet, and calls that damaged.
        self._endless = self.container.format.name == "wav" and _is_endless_wav(file)
        self.start_us = self.container.start_time or 0
        self.declared_us = max(0, self.container.duration or 0)
        if len(self.container.streams) > self.limits.streams:
            raise ClipError(
                f"has {len(self.container.streams)} streams; at most {self.limits.streams} are read: keep the "
                "speaker's, or raise the limit streams"
            )
        decodable = [s for s in self.container.streams if s.codec_context is not None]  # None: no decoder for it
        streams = [s for s in decodable if s.codec_context.name in DECODERS]
        self.video = next((s for s in streams if s.type == "video" and not _is_cover_art(s)), None)
        self.audio = _chosen([s for s in streams if s.type == "audio"], 2)
        self.captions = _chosen([s for s in streams if s.codec_context.name in TEXT_DECODERS], 1)
        missing = {"video": self.video is None, "audio": self.audio is None}
        left_out = sorted({s.codec_context.name for s in decodable if missing.get(s.type) and not _is_cover_art(s)})
        if self.video is None and self.audio is None:
            codecs = f" (it is in {', '.join(left_out)}: convert it)" if left_out else ""
            raise ClipError(
                f"holds neither video nor audio that is decoded here{codecs}; give a recording of somebody talking"
            )
        self.warnings += [f"What is in the codec {name} was left out: it is not decoded here." for name in left_out]
        if self.video and self.video.codec_context.width * self.video.codec_context.height > self.limits.pixels:
            raise ClipError(
                f"has pictures of more than {self.limits.pixels} pixels; scale it down, or raise the limit pixels"
            )

    def decode(self) -> None:
        """Emit the whole clip apart from its footer."""
        grid, scaler = FrameGrid(self.request["frame_rate"]), RgbScaler(self.request["max_side"])
        track = AudioTrack(self._send, self.audio and self.audio.time_base, self.start_us, self.limits.seconds)
        wanted = [self.video] * self.request["video"] + [self.audio] * self.request["audio"] + [self.captions]
        wanted = [stream for stream in wanted if stream is not None]
        if self.video not in wanted:
            self._send_header(None)
        if self.video in wanted:
            context = self.video.codec_context
            context.options = {"max_pixels": str(self.limits.pixels)}  # of a picture further on, which may be larger
            context.thread_type = "AUTO"
            threads = -(-context.width * context.height // PIXELS_PER_THREAD)  # rounded up
            context.thread_count = min(max(threads, 1), DECODER_THREADS, os.cpu_count() or 1)
        for stream, packet in self._packets(wanted):
            try:
                for item in stream.decode(packet):
                    if stream is self.video:
                        self.bad_frames += item.is_corrupt
                        self._on_frame(item, grid, scaler)
                    elif stream is self.audio:
                        self.end_us = max(self.end_us, track.push(item))
                    elif packet.pts is not None:
                        self._on_caption(item, packet)
            except av.error.FFmpegError:
                self.bad_packets += not (packet and packet.is_corrupt)  # a corrupt one is counted already
        track.finish()
        self.samples = track.sent
        self._send_header(None)

    def footer(self) -> dict[str, Any]:
        """What was read and what was lost."""
        if self.request["video"] and self.video and not self.frames:
            self.warnings.append("Not one picture of the video could be decoded.")
        if self.request["audio"] and self.audio and not self.samples:
            self.warnings.append("Not one sample of the sound could be decoded.")
        if self.bad_packets:
            self.warnings.append(f"The file is damaged: packets cut short or not decodable: {self.bad_packets}.")
        if self.bad_frames:
            self.warnings.append(f"The file is damaged: pictures that were guessed in part: {self.bad_frames}.")
        declares = self.container.format.name.split(",")[0] in DECLARES_DURATION
        if declares and not self._stopped and self.declared_us - self._reached_us > MISSING_END_S * 1e6:
            declared, reached = self.declared_us / 1e6, self._reached_us / 1e6
            self.warnings.append(f"The file declares {declared:.1f} s but ends after {reached:.1f} s: it was cut off.")
        return {
            "duration_ms": _ms(self.end_us),
            "frames": self.frames,
            "samples": self.samples,
            "bad_packets": self.bad_packets,
            "warnings": self.warnings,
            "partial": bool(self.warnings),
        }

    def _packets(self, wanted: list) -> Iterator[tuple[Any, Any]]:
        """Every packet of the wanted streams, then for each stream None, which drains its decoder.

        All streams are read, wanted or not: how far they reach tells a file that was cut off.
        """
        demuxer, max_us = self.container.demux(), self.limits.seconds * 1_000_000
        parts = Parts() if self.container.format.name in RESTARTING else None
        for count in itertools.count():
            if count == self.limits.packets:
                self._stopped = True
                self.warnings.append(f"Only the first {count} packets were read, of {self._reached_us / 1e6:.1f} s.")
                break
            try:
                packet = next(demuxer, None)
            except av.error.FFmpegError as error:
                self.warnings.append(f"Reading stopped after {self._reached_us / 1e6:.1f} s: {error.strerror}.")
                break
            if packet is None:
                break
            if packet.size == 0:  # PyAV's own way to drain; ours, below, also works after an error
                continue
            if parts and packet.stream in wanted:
                parts.move(packet, self._reached_us + self.start_us)
            if packet.pts is not None and packet.stream.time_base:
                end_us = self._clip_us(packet.pts + (packet.duration or 0), packet.stream)
                if end_us > max_us and self._reached_us > max_us // 2:
                    self._stopped = True
                    self.warnings.append(f"Only the first {self.limits.seconds} s were read.")
                    break
                if end_us > max_us:  # a jump of hours is a broken timestamp
                    self.bad_packets += 1
                    continue
                self._reached_us = max(self._reached_us, end_us)
            if packet.stream in wanted:
                self.bad_packets += packet.is_corrupt and not self._endless
                yield packet.stream, packet
        for stream in wanted:
            if stream is not self.captions:
                yield stream, None

    def _on_frame(self, frame: Any, grid: FrameGrid, scaler: RgbScaler) -> None:
        if FLOAT_PIXELS.search(frame.format.name):
            raise ClipError(
                f"has pictures of floating-point numbers ({frame.format.name}), which may be NaN; convert it"
            )
        rotation = round(frame.rotation / 90) % 4 * 90
        self._send_header(rotation)
        period_us = round(1e6 / (self.video.average_rate or 25)) if not self._is_image() else 0
        time_us = self.end_us if frame.pts is None else self._clip_us(frame.pts, self.video)
        self.end_us = max(self.end_us, time_us + period_us)
        self._seen += 1
        if self._seen > self.limits.frame_rate * (1 + self.end_us / 1e6):
            raise ClipError(
                f"has more than {self.limits.frame_rate} pictures a second; convert it, or raise the limit frame_rate"
            )
        if grid.takes(time_us):
            self.frames += 1
            fields, pixels = scaler.convert(frame, self._aspect())
            self._send(Kind.FRAME, {"time_ms": _ms(time_us), "rotation": rotation, **fields}, pixels)

    def _on_caption(self, subtitle: Any, packet: Any) -> None:
        text = subtitle.ass.decode("utf-8", "replace").split(",", 8)[-1]  # after eight fields of layout
        text = ASS_OVERRIDE.sub("", text).replace("\\N", "\n").strip()
        if text:
            start_us = self._clip_us(packet.pts, self.captions)
            end_us = self._clip_us(packet.pts + (packet.duration or 0), self.captions)
            self._send(Kind.CAPTION, {"start_ms": _ms(start_us), "end_ms": _ms(end_us), "text": text})

    def _clip_us(self, pts: int, stream: Any) -> int:
        """A stream's timestamp on the clip's clock, in microseconds."""
        return round(pts * stream.time_base * 1_000_000) - self.start_us

    def _aspect(self) -> float:
        """Width of a stored pixel over its height; broken values count as square."""
        aspect = float(self.video.sample_aspect_ratio or 1)
        return aspect if 0.25 <= aspect <= 4 else 1.0

    def _is_image(self) -> bool:
        return self.container.format.name.endswith("_pipe")

    def _send_header(self, rotation: int | None) -> None:
        if self._held is None:
            return
        width = height = 0
        if self.video:
            width = round(self.video.codec_context.width * self._aspect())
            height = self.video.codec_context.height
            if rotation in (90, 270):
                width, height = height, width
        self._emit(
            Kind.HEADER,
            {
                "duration_ms": 0 if self._is_image() else _ms(self.declared_us),
                "has_video": self.video is not None,
                "has_audio": self.audio is not None,
                "width": width,
                "height": height,
                "rotation": rotation or 0,
                "is_image": self._is_image(),
                "container": self.container.format.name,
            },
        )
        held, self._held = self._held, None
        for message in held:
            self._emit(*message)

    def _send(self, kind: Kind, fields: dict[str, Any], payload: Any = b"") -> None:
        if self._held is None:
            self._emit(kind, fields, payload)
            return
        self._held.append((kind, fields, payload))
        if len(self._held) > MAX_HELD:
            self._send_header(None)


def _open_container(file: BinaryIO, limits: Limits) -> Any:
    # A file object without a name, as opened from a descriptor: FFmpeg would take "http:..." or "concat:..." in a name
    # for a protocol, and "%d.png" for a series of images.
    options = {
        "format_whitelist": DEMUXERS,
        "protocol_whitelist": "none",
        "codec_whitelist": ",".join(DECODERS),  # for the look into each stream at the start
        "max_streams": str(max(PROBED_STREAMS, limits.streams)),
    }
    try:
        return av.open(file, "r", container_options=options, **ANY_TAGS)
    except av.error.FFmpegError as error:
        if error.errno == errno.EINVAL:  # FFmpeg's answer to a demuxer that is not on the list
            problem = f"is not of a kind that is read here; give {FILES}"
        elif os.pread(file.fileno(), 4, 4) == b"ftyp":
            problem = "is an MP4 whose index (moov) is missing or damaged, as after a cut-off recording; repair it"
        else:
            problem = f"is no media file, or damaged at its start; give {FILES}"
        raise ClipError(problem) from error


def _is_endless_wav(file: BinaryIO) -> bool:
    """Whether a WAV states no length: what wrote it to a pipe could not go back to fill it in."""
    at = RIFF_HEADER_BYTES
    for _ in range(MAX_WAV_CHUNKS):
        head = os.pread(file.fileno(), WAV_CHUNK.size, at)
        if len(head) < WAV_CHUNK.size:
            break
        name, size = WAV_CHUNK.unpack(head)
        if name == b"data":  # not in RF64, which states the length elsewhere
            return size in (0, 0xFFFF_FFFF) and os.pread(file.fileno(), 4, 0) == b"RIFF"
        at += WAV_CHUNK.size + size + size % 2
    return False


def _chosen(streams: list, languages: int) -> Any | None:
    """The stream in English, which is what the model knows, then the one that players take, then the first.

    languages: how many the streams must declare for that to count. Of two tracks of sound, one in English and one that
    does not say, the former may be a commentary.
    """
    declared = [(s.metadata.get("language") or "und").lower().partition("-")[0] for s in streams]
    counts = len({*declared} - {"und"}) >= languages
    ranks = [
        (not (counts and language in ENGLISH), not s.disposition & av.stream.Disposition.default)
        for s, language in zip(streams, declared, strict=True)
    ]
    return streams[ranks.index(min(ranks))] if streams else None


def _is_cover_art(stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _ms(time_us: int) -> int:
    return round(time_us / 1000)
