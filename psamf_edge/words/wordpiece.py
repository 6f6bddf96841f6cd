"""Text to token ids by the rules of BERT's uncased WordPiece (Devlin et al. 2019), in plain Python."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from psamf_edge.errors import IntegrityError, UsageError

MAX_WORD_CHARS = 100  # BERT's own limit: a longer word is one [UNK]
CACHED_CHUNKS = 8192  # about the vocabulary of a day of talk; under 2 MB
CACHED_CHUNK_CHARS = 40  # longer runs without a space do not come back, so they must not fill the cache

# Unicode White_Space without the controls that BERT deletes (str.split() would split at those).
_SPACES = re.compile("[ \t\n\r\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
# The blocks of ideographs that BERT takes one by one; kana and hangul are not among them.
_IDEOGRAPH = re.compile(
    "([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002ceaf\U0002f800-\U0002fa1f])"
)
# Control, format, surrogate, private use. Not Cn: an emoji newer than this Python must encode as on any other.
_DELETED = ("Cc", "Cf", "Cs", "Co")


@dataclass(frozen=True)
class Encoded:
    """ids: int64 (L,), [CLS] first and [SEP] last. truncated: words at the end were dropped to fit `max_tokens`."""

    ids: np.ndarray
    truncated: bool


class WordPiece:
    """The uncased WordPiece tokenizer of a BERT vocabulary.

    Markers such as "[SEP]" inside the text are read as plain characters: a caption must not forge structure.

    Args:
        vocab: content of a `vocab.txt`, UTF-8, one token a line; the line number is the id.

    Raises:
        IntegrityError: the bytes are not UTF-8, or [UNK], [CLS], [SEP] or [PAD] is not among the tokens.
    """

    def __init__(self, vocab: bytes):
        try:
            lines = vocab.decode("utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            raise IntegrityError(f"The vocabulary is not UTF-8 text ({error}); fetch the bundle again.") from error
        self._ids = {token: index for index, token in enumerate(lines)}
        missing = [token for token in ("[UNK]", "[CLS]", "[SEP]", "[PAD]") if token not in self._ids]
        if missing:
            raise IntegrityError(f"The vocabulary lacks {', '.join(missing)}; it must be a BERT vocab.txt.")
        self.pad_id = self._ids["[PAD]"]
        self.unknown_id = self._ids["[UNK]"]
        self._longest = max(map(len, self._ids))
        self._cached_chunk = lru_cache(CACHED_CHUNKS)(self._encode_chunk)

    def __len__(self) -> int:
        return max(self._ids.values()) + 1

    def encode(self, text: str, max_tokens: int = 128) -> Encoded:
        """Token ids of `text`, at most `max_tokens` of them, [CLS] and [SEP] included.

        Raises:
            UsageError: `max_tokens` leaves no room for [CLS] and [SEP].
        """
        if max_tokens < 2:
            raise UsageError(f"max_tokens is {max_tokens}; it must be at least 2, for [CLS] and [SEP].")
        ids = [self._ids["[CLS]"]]
        for chunk in _SPACES.split(text):
            ids += self._cached_chunk(chunk) if len(chunk) <= CACHED_CHUNK_CHARS else self._encode_chunk(chunk)
            if len(ids) >= max_tokens:
                break
        truncated = len(ids) >= max_tokens
        ids[max_tokens - 1 :] = [self._ids["[SEP]"]]
        return Encoded(np.array(ids, dtype=np.int64), truncated)  # (L,)

    def _encode_chunk(self, chunk: str) -> list[int]:
        """Ids of a run of characters without white space."""
        return [piece for word in split_words(chunk) for piece in self._encode_word(word)]

    def _encode_word(self, word: str) -> list[int]:
        """Greedy longest match from the left; a word with a part outside the vocabulary is one [UNK]."""
        unknown = [self.unknown_id]
        if len(word) > MAX_WORD_CHARS:
            return unknown
        ids, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(min(len(word), start + self._longest), start, -1):
                piece = self._ids.get(prefix + word[start:end])
                if piece is not None:
                    break
            else:
                return unknown
            ids.append(piece)
            start = end
        return ids


def split_words(chunk: str) -> list[str]:
    """Lower-cased words, without accents, and single punctuation marks and ideographs of a run without white space."""
    if not chunk.isascii():
        chunk = "".join(c for c in chunk if c != "\ufffd" and unicodedata.category(c) not in _DELETED)
        chunk = unicodedata.normalize("NFD", _IDEOGRAPH.sub(r" \1 ", chunk))
        chunk = "".join(c for c in chunk if unicodedata.category(c) != "Mn")
        chunk = chunk.replace("Σ", "σ")  # lower() would make a final sigma; BERT lowers letter by letter
    elif not chunk.isprintable():
        chunk = "".join(filter(str.isprintable, chunk))
    return "".join(f" {c} " if _is_punctuation(c) else c for c in chunk.lower()).split(" ")


def _is_punctuation(char: str) -> bool:
    """Unicode punctuation, and all ASCII signs such as $ and +, which Unicode calls symbols."""
    if char.isascii():
        return not char.isalnum() and char != " "
    return unicodedata.category(char).startswith("P")
