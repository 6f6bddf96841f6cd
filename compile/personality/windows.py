"""Long texts to windows of whole sentences, as token ids: an encoder of one utterance never sees a whole essay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from psamf_edge.compile.data.sentences import SENTENCE_END
from psamf_edge.words.wordpiece import WordPiece

_TOKENS_A_CHARACTER = 4  # more than any character decomposes into, so that `encode` never truncates


def encode_sentences(text: str, wordpiece: WordPiece) -> list[np.ndarray]:
    """Token ids (L,) of each sentence of `text`, without [CLS] and [SEP]; sentences without a token are left out."""
    sentences = (
        wordpiece.encode(part, _TOKENS_A_CHARACTER * len(part) + 3).ids[1:-1] for part in SENTENCE_END.split(text)
    )
    return [ids for ids in sentences if len(ids)]


def cut(sentences: Sequence[np.ndarray], length: int, ends: tuple[int, int], join: bool = True) -> list[np.ndarray]:
    """Windows (L,), L <= length, that together hold every token once and in order, each between [CLS] and [SEP].

    There is always one: a text without a token is [CLS] [SEP].

    Args:
        sentences: from `encode_sentences`; one too long for a window is cut where the window ends.
        length: the most tokens of a window, [CLS] and [SEP] included; at least 3.
        ends: the ids of [CLS] and [SEP].
        join: fill a window with as many whole sentences as fit; otherwise each sentence is a window.
    """
    room = length - len(ends)
    windows: list[list[np.ndarray]] = []
    filled = room  # tokens in the last window: none is open yet
    for piece in (s[start : start + room] for s in sentences for start in range(0, len(s), room)):
        if join and filled + len(piece) <= room:
            windows[-1].append(piece)
        else:
            windows.append([piece])
            filled = 0
        filled += len(piece)
    cls, sep = ends
    return [np.concatenate([[cls], *pieces, [sep]]).astype(np.int64) for pieces in windows or [[]]]
