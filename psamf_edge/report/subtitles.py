"""SubRip and WebVTT: each utterance with its score, such as `[+1.8 positive] What a film.`"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from psamf_edge.report.escape import srt_text, vtt_text
from psamf_edge.report.wording import timestamp, verdict
from psamf_edge.result import Result


def write_srt(results: Sequence[Result]) -> str:
    """Numbered cues with times as 00:00:01,500. Takes exactly one clip."""
    (result,) = results
    cues = _cues(result, ",", srt_text)
    return "\n".join(f"{number}\n{cue}\n" for number, cue in enumerate(cues, start=1))


def write_vtt(results: Sequence[Result]) -> str:
    """The WEBVTT line and cues with times as 00:00:01.500. Takes exactly one clip."""
    (result,) = results
    return "\n".join(["WEBVTT\n", *(f"{cue}\n" for cue in _cues(result, ".", vtt_text))])


def _cues(result: Result, decimal_mark: str, escape: Callable[[str], str]) -> Iterator[str]:
    for segment in result.segments:
        end_ms = max(segment.end_ms, segment.start_ms + 1)  # a cue must end after it starts; a still image does not
        times = f"{timestamp(segment.start_ms, decimal_mark)} --> {timestamp(end_ms, decimal_mark)}"
        words = escape(segment.text or "")
        yield f"{times}\n[{verdict(segment.score, segment.label)}] {words}".rstrip()
