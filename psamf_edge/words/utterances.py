"""Cuts a clip into the utterances that are scored one by one."""

from __future__ import annotations

import textwrap
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from psamf_edge.errors import UsageError
from psamf_edge.words.sentences import each_sentence, ends_sentence
from psamf_edge.words.timed import TimedText, repair_times
from psamf_edge.words.transcript import Transcript

CHAR_MS = 65  # a character of English talk: 150 words a minute, 6 characters each
MAX_SENTENCE_CHARS = 240  # 95 % of the MOSEI utterances have at most 243; text without full stops is cut here
MAX_UTTERANCE_MS = 15_000  # the time that MAX_SENTENCE_CHARS take, so voice and face are cut where text is
MAX_PAUSE_MS = 2_000  # after a longer pause a speaker starts anew, whatever the punctuation says


@dataclass(frozen=True)
class Utterance:
    """A stretch of the clip in integer milliseconds, and its words (None when they are not known)."""

    start_ms: int
    end_ms: int
    text: str | None = None


def plan_utterances(
    transcript: Transcript,
    spans: list[tuple[int, int]],
    duration_ms: int,
    max_ms: int = MAX_UTTERANCE_MS,
    whole: bool = False,
) -> list[Utterance]:
    """The utterances of a clip: in order, apart, inside [0, duration_ms], with every word of the transcript.

    None is longer than `max_ms`, except one that holds a single caption or a single sentence: half a sentence would be
    scored as a thought that nobody uttered.

    Args:
        transcript: captions with times are joined up to the end of a sentence. Words without times are one utterance in
            a short clip, else their sentences are laid over the speech in proportion to their length. Without words the
            speech itself is cut.
        spans: when somebody speaks, in order and apart (`speech_spans`); without any, the whole clip counts.
        duration_ms: length of the clip; 0 for an image, which is one utterance.
        whole: one utterance for the whole clip.

    Raises:
        UsageError: `max_ms` is not positive.
    """
    if max_ms <= 0:
        raise UsageError(f"The longest utterance is set to {max_ms} ms; it must be positive.")
    if whole or duration_ms <= 0:
        return [Utterance(0, max(duration_ms, 0), transcript.text)]
    if transcript.timed:
        return _from_captions(transcript.timed, duration_ms, max_ms)
    inside = [(max(start, 0), min(end, duration_ms)) for start, end in spans]
    spans = [(start, end) for start, end in inside if end > start] or [(0, duration_ms)]
    if transcript.text is None:
        return _windows(spans, max_ms)
    sentences = split_sentences(transcript.text)
    if duration_ms <= max_ms or len(sentences) == 1:
        return [Utterance(0, duration_ms, transcript.text)]
    return _lay_over(sentences, spans, duration_ms)


def split_sentences(text: str) -> list[str]:
    """Sentences of at most MAX_SENTENCE_CHARS, in order; only a single word may be longer. Never empty."""
    pieces = [piece for sentence in each_sentence(text) for piece in _wrap(sentence)]
    return pieces or [text]


def _wrap(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, MAX_SENTENCE_CHARS, break_long_words=False, break_on_hyphens=False)


def _from_captions(timed: list[TimedText], duration_ms: int, max_ms: int) -> list[Utterance]:
    """Captions moved into the clip, then joined until a sentence ends."""
    captions, _ = repair_times(timed)
    begins = [min(max(c.start_ms, 0), duration_ms) for c in captions] + [duration_ms]
    pieces = []
    for caption, (start, limit) in zip(captions, pairwise(begins), strict=True):
        end = min(max(caption.end_ms, start), duration_ms)
        if end == start:  # a caption that says only when it begins lasts as long as saying it
            end = min(start + CHAR_MS * len(caption.text), limit)
        pieces.append(Utterance(start, end, caption.text))
    groups: list[list[Utterance]] = []
    for piece in _without_empty(pieces, duration_ms):
        if groups and _continues(groups[-1], piece, max_ms):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return [Utterance(group[0].start_ms, group[-1].end_ms, " ".join(u.text for u in group)) for group in groups]


def _continues(group: list[Utterance], piece: Utterance, max_ms: int) -> bool:
    ended = ends_sentence(group[-1].text, piece.text)
    paused = piece.start_ms - group[-1].end_ms > MAX_PAUSE_MS
    return not ended and not paused and piece.end_ms - group[0].start_ms <= max_ms


def _lay_over(sentences: list[str], spans: list[tuple[int, int]], duration_ms: int) -> list[Utterance]:
    """Each sentence takes its share, by characters, of the time in which somebody speaks."""
    begins = list(accumulate((end - start for start, end in spans), initial=0))  # of each span, in speech time
    speech_ms = begins.pop()
    ends = list(accumulate(map(len, sentences), initial=0))
    cuts = [speech_ms * chars // ends[-1] for chars in ends]

    def clip_time(cut: int, span: int) -> int:
        return spans[span][0] + cut - begins[span]

    # A sentence that begins in a pause begins after it; one that ends in a pause ends before it.
    pieces = [
        Utterance(clip_time(a, bisect_right(begins, a) - 1), clip_time(b, max(bisect_left(begins, b) - 1, 0)), sentence)
        for sentence, (a, b) in zip(sentences, pairwise(cuts), strict=True)
    ]
    return _without_empty(pieces, duration_ms)


def _without_empty(pieces: list[Utterance], duration_ms: int) -> list[Utterance]:
    """Pieces that last no time give their words to the one before them, or to the first that lasts."""
    lasting: list[Utterance] = []
    texts: list[list[str]] = [[]]  # words of each lasting piece; one list ahead until the first is found
    for piece in pieces:
        if piece.end_ms > piece.start_ms:
            if lasting:
                texts.append([])
            lasting.append(piece)
        texts[-1].append(piece.text)
    lasting = lasting or [Utterance(0, duration_ms)]
    return [replace(piece, text=" ".join(words)) for piece, words in zip(lasting, texts, strict=True)]


def _windows(spans: list[tuple[int, int]], max_ms: int) -> list[Utterance]:
    """Spans joined as long as they stay within `max_ms`; longer ones cut into equal parts."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and end - joined[-1][0] <= max_ms:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    windows = []
    for start, end in joined:
        parts = -(-(end - start) // max_ms)
        cuts = [start + (end - start) * part // parts for part in range(parts + 1)]
        windows += [Utterance(a, b) for a, b in pairwise(cuts)]
    return windows
