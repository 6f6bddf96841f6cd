"""Clips that mean harm: `ATTACKS` maps a file name to what writes it. Most are small and claim to be large."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import media_files as files
import numpy as np

SCRIPT = "<script>alert(1)</script>"


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes, *extra: bytes) -> bytes:
    """A grey PNG of 8 bits, with `pixels` as its compressed rows."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


def zeros(size: int) -> bytes:
    """`size` zero bytes, compressed a thousandfold."""
    compressor, block = zlib.compressobj(1), bytes(1 << 20)
    parts = [compressor.compress(block[: min(len(block), size - at)]) for at in range(0, size, len(block))]
    return b"".join(parts) + compressor.flush()


def bomb_png(path: Path) -> None:
    """144 million pixels in 150 KB."""
    path.write_bytes(png(12_000, 12_000, zeros(12_000 * 12_001)))


def claims_png(path: Path) -> None:
    path.write_bytes(png(2**31 - 1, 2**31 - 1, zeros(1000)))


def text_bomb_png(path: Path) -> None:
    """A comment of 300 MB, compressed, in front of a picture of one pixel."""
    path.write_bytes(png(1, 1, zlib.compress(b"\0\0"), png_chunk(b"zTXt", b"Comment\0\0" + zeros(300 << 20))))


def claims_jpg(path: Path) -> None:
    """A real picture whose header says 65500 x 65500."""
    data = bytearray(files.write_image(path).read_bytes())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65_500, 65_500)
    path.write_bytes(data)


def claims_gif(path: Path) -> None:
    frame = b"," + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0) + b"\x02\x02\x4c\x01\0"
    path.write_bytes(b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0x80, 0, 0) + bytes(6) + frame * 50 + b";")


def claims_bmp(path: Path) -> None:
    size = 2**31 - 1
    path.write_bytes(struct.pack("<2sIIIIiiHHIIiiII", b"BM", 54, 0, 54, 40, size, size, 1, 24, 0, 0, 0, 0, 0, 0))


def claims_webp(path: Path) -> None:
    data = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + b"\xff\xff\xff" * 2
    path.write_bytes(b"RIFF" + struct.pack("<I", len(data) + 4) + b"WEBP" + data)


def changing_avi(path: Path) -> None:
    """Motion JPEG whose second picture says that it is a thousand times as wide and high."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=files.FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for index in range(5):
            frame = av.VideoFrame.from_ndarray(files.picture(index), format="rgb24").reformat(format="yuvj420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    first = data.index(b"\xff\xc0")
    at = data.index(b"\xff\xc0", first + 1) + 5
    data[at : at + 4] = struct.pack(">HH", 65_500, 65_500)
    path.write_bytes(data)


def box(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def nested_mp4(path: Path) -> None:
    """Boxes in boxes, ten thousand deep."""
    depth = 10_000
    sizes = range(8 * depth, 0, -8)
    path.write_bytes(box(b"ftyp", b"isom\0\0\0\0") + b"".join(struct.pack(">I", size) + b"moov" for size in sizes))


def endless_boxes_mp4(path: Path) -> None:
    """Boxes that say that they take no room, or more room than there is."""
    ends = (
        struct.pack(">I4sQ", 1, b"moov", 0) + struct.pack(">I4sQ", 1, b"mdat", 2**63 - 1) + struct.pack(">I", 0) * 999
    )
    path.write_bytes(box(b"ftyp", b"isom\0\0\0\0") + ends)


def patched_mp4(path: Path, kind: bytes, offset: int, value: bytes) -> None:
    """A clip in which one value of the first box of a kind is changed, `offset` bytes behind its name."""
    data = bytearray(files.write_clip(path, 1).read_bytes())
    at = data.index(kind) + 4 + offset
    data[at : at + len(value)] = value
    path.write_bytes(data)


def many_streams_mkv(path: Path) -> None:
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=8000, layout="mono") for _ in range(900)]
        container.start_encoding()
        for stream in streams[:2]:
            packet = av.Packet(bytes(1600))
            packet.stream, packet.pts, packet.dts = stream, 0, 0
            container.mux(packet)


def deep_mkv(path: Path) -> None:
    """Elements of unknown size inside one another."""
    head = bytes.fromhex("1a45dfa3") + b"\x8b" + bytes.fromhex("4282") + b"\x88matroska"
    path.write_bytes(head + bytes.fromhex("18538067") + b"\xff" + (bytes.fromhex("1654ae6b") + b"\xff") * 20_000)


def wav(rate: int, channels: int, data_size: int, data: bytes, before: bytes = b"") -> bytes:
    fmt = struct.pack("<HHIIHH", 1, channels, rate, rate * 2 % 2**32, 2 * channels % 2**16, 16)
    chunks = before + b"fmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", data_size) + data
    return b"RIFF" + struct.pack("<I", min(4 + len(chunks), 2**32 - 1)) + b"WAVE" + chunks


def huge_tag_mp3(path: Path) -> None:
    """An ID3 tag that says it takes 256 MB."""
    path.write_bytes(b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + b"TIT2" + b"\x7f\x7f\x7f\x7f\0\0" + bytes(5000))


def cover_bomb_flac(path: Path) -> None:
    """A second of sound, with the picture of `bomb_png` as its cover."""
    files.write_clip(path, 1, size=None, audio_codec="flac")
    bomb = png(12_000, 12_000, zeros(12_000 * 12_001))
    picture = (
        struct.pack(">I", 3) + struct.pack(">I", 9) + b"image/png" + struct.pack(">IIIIII", 0, 1, 1, 24, 0, len(bomb))
    )
    block = b"\x06" + struct.pack(">I", len(picture) + len(bomb))[1:] + picture + bomb
    data = path.read_bytes()
    assert data[:4] == b"fLaC"
    end = 8 + int.from_bytes(data[5:8], "big")  # of STREAMINFO, which must come first
    first = bytes([data[4] & 0x7F]) + data[5:end]
    path.write_bytes(data[:4] + first + block + data[end:])


def far_frames_mkv(path: Path) -> None:
    """Two frames, eleven days apart."""
    files.write_clip(path, rate=None, frame_ms=[0, 40, 10**9])


def scripted_mp4(path: Path) -> None:
    """Captions that are markup, a formula, terminal control and further cues."""
    texts = [SCRIPT, "=cmd|' /C calc'!A0", "\x1b]0;owned\x07 good", "good\n\n9\n00:00:00,000 --> 00:00:09,000\nforged"]
    files.write_clip(path, 4, captions=[(1000 * i, 1000 * i + 900, text) for i, text in enumerate(texts)])


def noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(len(path.name)).bytes(50_000))


def noise_behind(head: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(head + np.random.default_rng(len(head)).bytes(50_000))


def sparse_wav(path: Path, seconds: float, rate: int = 16_000) -> Path:
    """Silence that takes no room on the disk."""
    size = int(seconds * rate) * 2
    path.write_bytes(wav(rate, 1, min(size, 2**32 - 1), b""))
    os.truncate(path, path.stat().st_size + size)
    return path


ATTACKS: dict[str, Callable[[Path], object]] = {
    "bomb.png": bomb_png,
    "claims.png": claims_png,
    "text-bomb.png": text_bomb_png,
    "claims.jpg": claims_jpg,
    "claims.gif": claims_gif,
    "claims.bmp": claims_bmp,
    "claims.webp": claims_webp,
    "changing.avi": changing_avi,
    "nested.mp4": nested_mp4,
    "endless-boxes.mp4": endless_boxes_mp4,
    "sample-count.mp4": lambda path: patched_mp4(path, b"stsz", 8, b"\xff" * 4),
    "chunk-offsets.mp4": lambda path: patched_mp4(path, b"stco", 8, b"\xff" * 4),
    "time-runs.mp4": lambda path: patched_mp4(path, b"stts", 4, b"\x7f" * 12),
    "chunk-runs.mp4": lambda path: patched_mp4(path, b"stsc", 4, b"\xff" * 16),
    "duration.mp4": lambda path: patched_mp4(path, b"mvhd", 12, b"\x7f" * 8),
    "edit-list.mp4": lambda path: patched_mp4(path, b"elst", 4, b"\x7f" * 12),
    "many-streams.mkv": many_streams_mkv,
    "deep.mkv": deep_mkv,
    "rate.wav": lambda path: path.write_bytes(wav(2**32 - 1, 1, 3200, bytes(3200))),
    "channels.wav": lambda path: path.write_bytes(wav(16_000, 65_535, 3200, bytes(3200))),
    "size.wav": lambda path: path.write_bytes(wav(16_000, 1, 2**32 - 1, bytes(3200))),
    "chunk.wav": lambda path: path.write_bytes(wav(16_000, 1, 3200, bytes(3200), b"LIST" + b"\xfe\xff\xff\xff")),
    "tag.mp3": huge_tag_mp3,
    "cover-bomb.flac": cover_bomb_flac,
    "far-frames.mkv": far_frames_mkv,
    "scripted.mp4": scripted_mp4,
    "noise.mp4": noise,
    "noise.mkv": noise_behind(bytes.fromhex("1a45dfa3")),
    "noise.ogg": noise_behind(b"OggS\0\x02"),
    "noise.avi": noise_behind(b"RIFF\xff\xff\xff\x7fAVI LIST"),
    "noise.ts": noise_behind(b"\x47"),
    "noise.flv": noise_behind(b"FLV\x01\x05\0\0\0\x09"),
}
