"""Builds small media files, ordinary and odd, for the tests: everything is written by PyAV into the given path."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FPS = 25
ASS_HEADER = b"[Script Info]\nScriptType: v4.00+\n[V4+ Styles]\nFormat: Name\nStyle: Default\n[Events]\nFormat: Text\n"


def picture(index: int, width: int = 64, height: int = 48) -> np.ndarray:
    """(height, width, 3) uint8: red top left, green top right, blue bottom left, and a grey that tells `index`."""
    image = np.full((height, width, 3), (index * 7) % 256, np.uint8)
    image[: height // 2, : width // 2] = (220, 30, 30)
    image[: height // 2, width // 2 :] = (30, 220, 30)
    image[height // 2 :, : width // 2] = (30, 30, 220)
    return image


def tone(seconds: float, rate: int, channels: int = 1, hertz: float = 440.0) -> np.ndarray:
    """(channels, N) int16, each channel a sine of half the full scale; the second is an octave up."""
    time = np.arange(round(seconds * rate)) / rate
    waves = [0.5 * np.sin(2 * np.pi * hertz * (channel + 1) * time) for channel in range(channels)]
    return (np.stack(waves) * 32767).astype(np.int16)


def write_clip(
    path: Path,
    seconds: float = 2.0,
    *,
    size: tuple[int, int] | None = (64, 48),
    rate: int | None = 48_000,
    channels: int = 1,
    captions: Sequence[tuple[int, int, str]] = (),
    frame_ms: Sequence[int] | None = None,
    offset_ms: int = 0,
    audio_delay_ms: int = 0,
    pixel_aspect: Fraction | None = None,
    video_codec: str = "libx264",
    audio_codec: str = "aac",
    options: dict[str, str] | None = None,
) -> Path:
    """Write a clip. `size` None: no video. `rate` None: no audio. `frame_ms`: times of the frames, for a variable rate.

    `offset_ms` moves every stream, `audio_delay_ms` the sound alone.
    """
    with av.open(str(path), "w", options=options or {}) as container:
        video = audio = text = None
        if size:
            video = container.add_stream(video_codec, rate=FPS)
            video.width, video.height = size
            video.pix_fmt = "yuv444p" if size[0] % 2 else "yuv420p"
            video.codec_context.thread_count = 1
            video.codec_context.gop_size = 10
            if pixel_aspect:
                video.codec_context.sample_aspect_ratio = pixel_aspect
            if frame_ms is not None:
                video.codec_context.time_base = Fraction(1, 1000)
        if rate:
            audio = container.add_stream(audio_codec, rate=rate, layout="stereo" if channels == 2 else "mono")
        if captions:
            text = container.add_stream("mov_text")
            text.time_base = Fraction(1, 1000)
            text.codec_context.subtitle_header = ASS_HEADER
        if video:
            times = (
                [round(1000 * index / FPS) for index in range(round(seconds * FPS))] if frame_ms is None else frame_ms
            )
            for index, milliseconds in enumerate(times):
                frame = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")
                unit = Fraction(1, 1000) if frame_ms is not None else Fraction(1, FPS)
                frame.pts, frame.time_base = round((milliseconds + offset_ms) / 1000 / unit), unit
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if audio:
            samples = tone(seconds, rate, channels)
            for start in range(0, samples.shape[1], 1024):
                block = np.ascontiguousarray(samples[:, start : start + 1024].T).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(block, format="s16", layout="stereo" if channels == 2 else "mono")
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = start + (offset_ms + audio_delay_ms) * rate // 1000
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
        for start_ms, end_ms, line in captions:
            packet = av.Packet(len(line.encode()).to_bytes(2, "big") + line.encode())
            packet.stream, packet.time_base = text, Fraction(1, 1000)
            packet.pts = packet.dts = start_ms
            packet.duration = end_ms - start_ms
            container.mux(packet)
    return path


def write_image(path: Path, width: int = 33, height: int = 17) -> Path:
    """A still picture; the codec follows the suffix (.png or .jpg)."""
    codec, pixels = ("png", "rgb24") if path.suffix == ".png" else ("mjpeg", "yuvj444p")
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt, context.time_base = width, height, pixels, Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(picture(0, width, height), format="rgb24").reformat(format=pixels)
    path.write_bytes(b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)]))
    return path


def write_truncated(path: Path, source: Path, share: float = 0.5) -> Path:
    """The first `share` of the bytes of `source`."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def write_rotated(path: Path, source: Path, degrees: int) -> Path:
    """Patch the display matrix of an MP4's video track, as a phone that was held turned would write it.

    A matrix is nine big-endian 32-bit numbers, 16.16 fixed point apart from the last column; the unit matrix stands in
    the `mvhd` box first and then in each `tkhd`. `degrees` is clockwise, as phones count.
    """
    cosine, sine = {90: (0, 1), -90: (0, -1), 180: (-1, 0)}[degrees]
    one = 1 << 16
    unit = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", cosine * one, sine * one, 0, -sine * one, cosine * one, 0, 0, 0, 1 << 30)
    data = source.read_bytes()
    track = data.index(unit, data.index(b"tkhd"))
    path.write_bytes(data[:track] + turned + data[track + len(unit) :])
    return path


def write_damaged(path: Path, source: Path, period: int = 997) -> Path:
    """`source` with a wrong byte every `period` bytes in the second half, where the media data of an MKV lies."""
    data = bytearray(source.read_bytes())
    for at in range(len(data) // 2, len(data), period):
        data[at] ^= 0xFF
    path.write_bytes(data)
    return path
