"""Where an English sentence ends: at a full stop that is not part of an abbreviation."""

from __future__ import annotations

import re
from collections.abc import Iterator

STOPS = ".!?…。！？"
CLOSERS = "\"'”’)]"  # may stand between the stop and the space
NEAR = 40  # characters on each side of a gap that are looked at: the words there, and no more of a hostile text

_GAP = re.compile(r"(?<=[.!?…])\s+|(?<=[.!?…][\"'”’)\]])\s+|(?<=[。！？])")
_LAST_WORD = re.compile(r"(?:^|[\s\"'“‘(\[-])([^\s\"'“‘(\[-]+)\.$")
# Something always follows these. Not "no." and "rep.", which are words as well.
_LEADS_ON = re.compile(r"mrs?|ms|messrs|dr|prof|rev|capt|lt|sgt|gov|sen|vs|e\.g|i\.e|approx", re.I)
# These may end a sentence, and do where an opener follows: "in the U.S. It", but "J. Smith". A lone I is the pronoun.
_MAY_END = re.compile(r"[A-HJ-Z]|(?:[A-Za-z]\.)+[A-Za-z]|(?i:ph\.d|etc|inc|ltd|corp|jr|sr|st)")
_OPENER = re.compile(
    r"[\"'“‘(\[]*(?=[A-Z])"
    r"(?i:I|you|he|she|it|we|they|there|this|that|these|those|here|the|an?|my|your|his|her|its|our|their|some"
    r"|and|but|so|or|then|now|if|as|at|in|on|for|with|after|because|what|when|where|which|who|why|how|yes|no|not|well|oh)"
    r"(?![A-Za-z.])"  # "J. A. Smith" is one name
)


def each_sentence(text: str) -> Iterator[str]:
    """The sentences of `text` in order, without the white space between them."""
    start = 0
    for gap in _GAP.finditer(text):
        if ends_sentence(text[max(start, gap.start() - NEAR) : gap.start()], text[gap.end() : gap.end() + NEAR]):
            yield text[start : gap.start()]
            start = gap.end()
    yield text[start:]


def ends_sentence(text: str, following: str) -> bool:
    """Whether `text`, a caption or a part of one, ends a sentence where `following` comes next."""
    text = text.rstrip(CLOSERS)
    if not text.endswith(tuple(STOPS)):
        return False
    last = _LAST_WORD.search(text[-NEAR:])
    if last is None or not following:
        return True
    if _LEADS_ON.fullmatch(last[1]):
        return False
    return not _MAY_END.fullmatch(last[1]) or bool(_OPENER.match(following))
