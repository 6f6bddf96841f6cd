"""Where the words of a clip come from: the first source in a fixed order that has any."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from psamf_edge.errors import InputError, UsageError
from psamf_edge.words.asr import Asr
from psamf_edge.words.subtitles import SUFFIXES, TextFile, read_text_file, sidecars
from psamf_edge.words.timed import TimedText, repair_times, unroll

NO_WORDS = (
    "No words were found for this clip; voice and face alone decide. To add words: --text, --transcript FILE, a "
    f"{', '.join(SUFFIXES)} file of the same name beside the clip, or --asr auto (pip install 'psamf-edge[asr]')."
)
HEARD = "The words come from speech recognition and may be wrong; --text or --transcript give the true ones."


@dataclass(frozen=True)
class Transcript:
    """The words of a clip.

    source: "given", "file", "sidecar", "embedded", "asr" or "none".
    timed: captions in order and without overlap; empty when only the words are known.
    text: all words in order; None when there are none.
    """

    source: str
    timed: list[TimedText]
    text: str | None
    warnings: list[str] = field(default_factory=list)


def find_transcript(
    clip: Path | None = None,
    given_text: str | None = None,
    named: TextFile | None = None,
    embedded: Iterable = (),
    audio: np.ndarray | None = None,
    asr: Asr | None = None,
) -> Transcript:
    """The transcript of a clip: given text, given file, sidecar, embedded captions, recognised speech or none.

    Args:
        clip: path of the clip, for its sidecar `clip.srt`, `clip.vtt` or `clip.txt` (or in capitals).
        given_text: what is said, as the user typed it; blank counts as not given.
        named: what a file says that the user named.
        embedded: captions from inside the clip, each with `start_ms`, `end_ms` and `text`.
        audio: float32 (N,), 16 kHz mono, for `asr`.
        asr: a recogniser, see `open_asr`.

    A bad sidecar only warns.
    """
    if given_text and given_text.strip():
        return Transcript("given", [], " ".join(given_text.split()))
    if named is not None:
        return _from_file("file", named, [])
    warnings: list[str] = []
    for sidecar in sidecars(clip) if clip else []:
        if sidecar == clip:
            continue
        try:
            content = read_text_file(sidecar)
        except UsageError:  # there is none
            continue
        except InputError as error:
            warnings.append(f"The sidecar was passed over. {error}")
            continue
        if content.text:
            return _from_file("sidecar", content, warnings)
        warnings.append(f"The sidecar {sidecar.name} holds no words.")
    cues, rolled = unroll(embedded)
    timed, repairs = repair_times(cues)
    if timed:
        return Transcript("embedded", timed, _joined(timed), warnings + rolled + repairs)
    if asr is not None and audio is not None and len(audio):
        timed, _ = repair_times(asr.transcribe(audio))
        if timed:
            return Transcript("asr", timed, _joined(timed), [*warnings, HEARD])
        warnings.append("Speech recognition heard no words in this clip.")
    return Transcript("none", [], None, [*warnings, NO_WORDS])


def inside(transcript: Transcript, duration_ms: int) -> Transcript:
    """The transcript without the captions that begin after `duration_ms`, with a warning that counts them.

    They belong to a part that was not read (a limit, a clip that was cut from a longer one). Where no caption begins
    inside, or nothing lasts (0 ms, a picture), the times say nothing of this clip and every word is kept.
    """
    kept = [caption for caption in transcript.timed if caption.start_ms < duration_ms]
    late = len(transcript.timed) - len(kept)
    if not kept or not late:
        return transcript
    warning = f"{late} of {len(transcript.timed)} caption(s) begin after what was read, {duration_ms / 1000:.1f} s"
    return replace(
        transcript, timed=kept, text=_joined(kept), warnings=[*transcript.warnings, f"{warning}: they were left out."]
    )


def _from_file(source: str, content: TextFile, warnings: list[str]) -> Transcript:
    return Transcript(source, content.timed, content.text, warnings + content.warnings)


def _joined(timed: list[TimedText]) -> str:
    return " ".join(caption.text for caption in timed)
