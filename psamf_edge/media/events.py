"""What reading a clip yields, in order: one ClipHeader, then Frame, AudioChunk and Caption mixed, then one ClipFooter.

All times are integer milliseconds on one clock that starts at 0 with the earliest stream of the clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClipHeader:
    """What the file says about itself.

    `width` and `height` are the upright display size in pixels (rotation and pixel aspect applied, no downscale), 0
    without video. `rotation` is the counter-clockwise turn in degrees (0, 90, 180, 270) that made the frames upright.
    `duration_ms` is 0 where the container does not declare one.
    """

    duration_ms: int
    has_video: bool
    has_audio: bool
    width: int
    height: int
    rotation: int
    is_image: bool
    container: str


@dataclass(frozen=True, eq=False)
class Frame:
    """One upright video frame. `image`: (H, W, 3) uint8 RGB, C-contiguous, owned by the caller."""

    time_ms: int
    image: np.ndarray


@dataclass(frozen=True, eq=False)
class AudioChunk:
    """A stretch of sound. `samples`: (N,) float32 at 16 kHz, mono, nominally in [-1, 1], finite.

    Chunks of one clip follow each other without a hole (gaps in the file are filled with silence), so that their
    concatenation starts at the first chunk's `start_ms` and stays in step with the frames.
    """

    start_ms: int
    samples: np.ndarray


@dataclass(frozen=True)
class Caption:
    """One embedded subtitle, without markup; its lines are separated by newlines."""

    start_ms: int
    end_ms: int
    text: str


@dataclass(frozen=True)
class ClipFooter:
    """What was read. `partial` is true when something was lost; `warnings` then says what, one sentence each."""

    duration_ms: int  # end of the last frame or sample that was read
    frames: int  # frames that were yielded
    samples: int  # audio samples that were yielded
    bad_packets: int  # packets that were cut short or could not be decoded
    warnings: list[str]
    partial: bool
    sha256: str  # of the file's bytes, hex


Event = ClipHeader | Frame | AudioChunk | Caption | ClipFooter
