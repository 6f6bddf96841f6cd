"""What one clip may cost. Each cap has a reason here, and a value of the caller's choice by `limits=` or `--limit`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from psamf_edge.errors import UsageError

DEADLINE_FLOOR_S = 60  # a short clip on a busy Jetson, with the child still starting
DEADLINE_FACTOR = 4  # decoding slower than a quarter of real time is a stuck decoder, not a slow one
LARGEST = 1 << 53  # of any cap: exact in JSON, and no system has more of anything


@dataclass(frozen=True)
class Limits:
    """Caps on one clip, whole numbers above 0. What passes one is refused or read in part, and a sentence says so.

    Args:
        bytes: of the file.
        seconds: of a longer clip, only these first are read.
        pixels: of one picture.
        frame_rate: pictures in any second, on average from the start of the clip.
        streams: in the file, used or not.
        packets: of a clip with more, only these first are read.
        memory: bytes of private data that the decoder may hold; never more than half of the machine's.
        deadline: seconds of waiting for the decoder. 0: as `deadline_s` reckons from the length of the clip.
    """

    bytes: int = 16 << 30  # four hours at 9 Mbit/s; every byte is read, for the hash of the file
    seconds: int = 4 * 3600  # half a day's lecture; its sound takes 900 MB here
    pixels: int = 8192 * 4320  # 8K; a larger picture is a decompression bomb
    frame_rate: int = 1000  # phones record slow motion at 960
    streams: int = 100  # a whole broadcast multiplex has some fifty; a format may declare thousands in a few bytes each
    packets: int = 20_000_000  # four hours of 240 pictures and 1100 packets of PCM (192 kHz, 8 channels) each second
    memory: int = 4 << 30  # an 8K H.264 stream with its reference frames needs under 2 GiB
    deadline: int = 0

    @classmethod
    def of(cls, chosen: Mapping[str, int] | None) -> Limits:
        """The default limits, but for those that are named. Raises UsageError."""
        known = [field.name for field in fields(cls)]
        for name, value in (chosen or {}).items():
            if name not in known:
                raise UsageError(f"There is no limit {name!r}; choose from {', '.join(known)}.")
            if type(value) is not int or not 0 < value <= LARGEST:
                raise UsageError(f"The limit {name} is {value!r}; give a whole number from 1 to {LARGEST}.")
        return cls(**(chosen or {}))

    def deadline_s(self, clip_s: float) -> float:
        """Seconds that may be spent waiting for the decoder of a clip that declares this length, or has reached it."""
        return self.deadline or max(DEADLINE_FLOOR_S, DEADLINE_FACTOR * min(clip_s, self.seconds))


def described() -> str:
    """Every limit with its default, for a line of help."""
    return ", ".join(f"{name} {value or 'by length'}" for name, value in asdict(Limits()).items())
