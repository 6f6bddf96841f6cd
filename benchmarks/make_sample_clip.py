"""Write psamf_edge/data/sample.mp4: a talking head with known words, whose sentiment rises and falls.

    python benchmarks/make_sample_clip.py [OUT.mp4]

The picture is the NASA portrait that scikit-image ships as `astronaut` (public domain), the voice flite's `slt` (free
licence), the words are ours: nobody else's rights touch the clip. The person shown never said these words. The head
sways, the jaw follows the loudness, and the corners of the mouth follow the sentence. The subtitles carry the words.
Needs scikit-image (`pip install -e .[dev]`) and flite (`apt-get install flite`).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

OUT = Path(__file__).resolve().parents[1] / "psamf_edge" / "data" / "sample.mp4"
SENTENCES = (  # words, and how far the corners of the mouth go up, in source pixels
    ("I loved the first hour: it is warm, funny and well acted.", 0.6),
    ("Then the crew repairs an antenna.", -2.2),
    ("But the ending is awful, and I was bored.", -4.2),
)
PAUSE_S = 0.3  # between sentences, and at both ends
RATE = 16_000  # Hz; what flite's slt speaks
FPS = 25
WIDTH, HEIGHT = 640, 480
MAX_BYTES = 350_000
ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+
[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Sans,18
[Events]
Format: Layer, Start, End, Style, Text
"""  # FFmpeg's mov_text encoder takes its style from one

# Where things are in the 512 x 512 portrait, (x, y) in pixels.
LEFT, TOP, SOURCE_WIDTH = 78.0, 4.0, 300.0  # the part that is shown
SCALE = WIDTH / SOURCE_WIDTH
NECK = (230.0, 195.0)
MOUTH = (224.5, 145.5)
LIP_LINE, CHIN = 147.0, 178.0
CORNER = 20.0  # from the middle of the mouth to a corner
JAW_DROP = 4.0  # at the loudest


def speak(text: str, folder: Path) -> np.ndarray:
    """flite's reading of `text`, (N,) int16 at RATE."""
    path = folder / "speech.wav"
    subprocess.run(["flite", "-voice", "slt", "-t", text, "-o", str(path)], check=True)
    with wave.open(str(path)) as recording:
        assert (recording.getframerate(), recording.getnchannels()) == (RATE, 1)
        return np.frombuffer(recording.readframes(recording.getnframes()), np.int16)


def smoothstep(x: np.ndarray, start: float, end: float) -> np.ndarray:
    """0 before `start`, 1 after `end`, smooth between."""
    u = np.clip((x - start) / (end - start), 0, 1)
    return u * u * (3 - 2 * u)


def loudness(speech: np.ndarray, frames: int) -> np.ndarray:
    """(frames,) in [0, 1]: the RMS around each frame, smoothed over three frames, so that the jaw has some mass."""
    padded = np.pad(speech.astype(np.float64), (0, frames * RATE // FPS - len(speech)))
    rms = np.sqrt((padded.reshape(frames, -1) ** 2).mean(axis=1))  # (frames,)
    smooth = np.convolve(rms, (0.25, 0.5, 0.25), mode="same")
    return np.clip(smooth / np.percentile(smooth, 95), 0, 1)


def source_of(seconds: float, jaw: float, corners: float) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel shown, the (x, y) of the portrait that it shows; both (HEIGHT, WIDTH). `jaw` in [0, 1]."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / SCALE
    zoom = 1 + 0.015 * np.sin(2 * np.pi * seconds / 9)
    middle_x, middle_y = SOURCE_WIDTH / 2, HEIGHT / SCALE / 2
    x = (x - middle_x) / zoom + middle_x + LEFT
    y = (y - middle_y) / zoom + middle_y + TOP

    # The head turns about the neck; the suit stays.
    angle = np.deg2rad(2.2 * np.sin(2 * np.pi * seconds / 4.1)) * smoothstep(y, 212, 170)
    dx, dy = x - NECK[0], y - NECK[1]
    x = NECK[0] + dx * np.cos(angle) - dy * np.sin(angle)
    y = NECK[1] + dx * np.sin(angle) + dy * np.cos(angle)

    across = np.abs(x - MOUTH[0])
    drop = JAW_DROP * jaw * np.exp(-((across / 17) ** 2)) * smoothstep(y, LIP_LINE - 1, LIP_LINE + 6)
    drop *= 1 - smoothstep(y, CHIN - 8, CHIN + 16)
    lift = corners * np.exp(-(((across - CORNER) / 9) ** 2) - ((y - MOUTH[1] + 4) / 9) ** 2)
    return x, y - drop + lift


def portrait() -> np.ndarray:
    """The portrait enlarged to the scale of the video, so that warping it needs no more than linear interpolation."""
    try:
        from skimage.data import astronaut
        from skimage.transform import rescale
    except ImportError:
        sys.exit("This script needs scikit-image: pip install -e .[dev]")
    return rescale(astronaut(), SCALE, order=3, channel_axis=2)  # (H, W, 3) in [0, 1]


def render(speech: np.ndarray, corners: np.ndarray) -> list[np.ndarray]:
    """One (HEIGHT, WIDTH, 3) uint8 image a frame."""
    from scipy.ndimage import map_coordinates

    planes = np.moveaxis(portrait(), 2, 0)
    images = []
    for index, jaw in enumerate(loudness(speech, len(corners))):
        x, y = source_of(index / FPS, jaw, corners[index])
        # skimage's rescale puts source pixel centre c at (c + 0.5) * SCALE - 0.5.
        at = ((y + 0.5) * SCALE - 0.5, (x + 0.5) * SCALE - 0.5)
        warped = np.stack([map_coordinates(plane, at, order=1, mode="nearest") for plane in planes], axis=2)
        images.append(np.clip(warped * 255 + 0.5, 0, 255).astype(np.uint8))
    return images


def mux(path: Path, images: list[np.ndarray], speech: np.ndarray, captions: list[tuple[int, int, str]]) -> None:
    """H.264, AAC and mov_text in an MP4. `captions`: (start_ms, end_ms, text)."""
    flags = {"fflags": "+bitexact", "movflags": "+faststart"}
    with av.open(str(path), "w", options=flags) as container:
        options = {"crf": "27", "preset": "veryslow", "tune": "stillimage"}
        video = container.add_stream("libx264", rate=FPS, options=options)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.thread_count = 1  # more threads, other bytes
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        audio.bit_rate = 48_000
        text = container.add_stream("mov_text")
        text.time_base = Fraction(1, 1000)
        text.codec_context.subtitle_header = ASS_HEADER

        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for start in range(0, len(speech), 1024):
            frame = av.AudioFrame.from_ndarray(speech[None, start : start + 1024], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))

        shown_until = 0
        for start_ms, end_ms, words in captions:
            for begin, end, line in ((shown_until, start_ms, ""), (start_ms, end_ms, words)):
                packet = av.Packet(len(line.encode()).to_bytes(2, "big") + line.encode())
                packet.stream, packet.time_base = text, Fraction(1, 1000)
                packet.pts = packet.dts = begin
                packet.duration = end - begin
                container.mux(packet)
            shown_until = end_ms


def main() -> None:
    """Write the clip and say what it came to."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    if shutil.which("flite") is None:
        sys.exit("This script needs the speech synthesiser flite: apt-get install flite")
    pause = np.zeros(int(PAUSE_S * RATE), np.int16)
    parts, captions, moods = [pause], [], []
    with tempfile.TemporaryDirectory() as folder:
        for words, corners in SENTENCES:
            start = sum(map(len, parts))
            parts.append(speak(words, Path(folder)))
            end = sum(map(len, parts))
            captions.append((start * 1000 // RATE, end * 1000 // RATE, words))
            moods.append(((start + end) / 2 / RATE, corners))
            parts.append(pause)
    speech = np.concatenate(parts)
    frames = -(-len(speech) * FPS // RATE)
    corners = np.interp(np.arange(frames) / FPS, *zip(*moods, strict=True))
    mux(path, render(speech, corners), speech, captions)
    size = path.stat().st_size
    print(f"{path}: {len(speech) / RATE:.2f} s, {frames} frames, {size} bytes")
    if size > MAX_BYTES:
        sys.exit(f"The clip is larger than {MAX_BYTES} bytes; raise crf.")


if __name__ == "__main__":
    main()
