"""Acted speech: RAVDESS and EMO-DB files to voice features with an emotion, a speaker and a split.

Splits are by speaker. Validation speakers are never trained on; upstream's RAVDESS actors 21 to 24 are not used at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from psamf_edge.audio.features import AUDIO_FEATURES, extract
from psamf_edge.compile.files import save_arrays
from psamf_edge.errors import UsageError
from psamf_edge.media.events import AudioChunk
from psamf_edge.media.reader import MediaReader

RAVDESS_EMOTIONS = {
    "01": "neutral", "02": "calm", "03": "happy", "04": "sad",
    "05": "angry", "06": "fear", "07": "disgust", "08": "surprise",
}  # fmt: skip
EMODB_EMOTIONS = {
    "W": "angry", "L": "boredom", "E": "disgust", "A": "fear", "F": "happy", "T": "sad", "N": "neutral",
}  # fmt: skip

# as upstream coins the names: of the emotion and the speaker, 03-01-05-02-01-01-19 and 03a01Fa
_RAVDESS = re.compile(r"\d\d-\d\d-(\d\d)-\d\d-\d\d-\d\d-(\d\d)")
_EMODB = re.compile(r"(\d\d)[a-z]\d\d([A-Z])[a-z]?")
RECORDINGS = {".opus", ".wav"}  # by suffix

# two women and two men of RAVDESS; one woman and one man of EMO-DB
VALIDATION = frozenset({"ravdess 17", "ravdess 18", "ravdess 19", "ravdess 20", "emodb 09", "emodb 10"})


@dataclass(frozen=True)
class SpeechSet:
    """Voice features. `features[i]` is (T_i, 63) float32 at 10 ms hops."""

    features: list[np.ndarray]
    emotions: np.ndarray  # (N,) str
    corpora: np.ndarray  # (N,) str: ravdess or emodb
    speakers: np.ndarray  # (N,) str: the corpus and the upstream's name, "ravdess 17"

    @property
    def validation(self) -> np.ndarray:
        """Whether each recording is of a validation speaker, (N,) bool."""
        return np.isin(self.speakers, list(VALIDATION))

    def select(self, keep: np.ndarray) -> SpeechSet:
        """The samples where `keep` (N,) is true."""
        features = [x for x, kept in zip(self.features, keep, strict=True) if kept]
        return SpeechSet(features, self.emotions[keep], self.corpora[keep], self.speakers[keep])


def describe(path: Path) -> tuple[str, str, str]:
    """Corpus, emotion and speaker, from a file's name as upstream coins it. Raises UsageError if it is no such name."""
    if (named := _RAVDESS.fullmatch(path.stem)) and named[1] in RAVDESS_EMOTIONS:
        return "ravdess", RAVDESS_EMOTIONS[named[1]], f"ravdess {named[2]}"
    if (named := _EMODB.fullmatch(path.stem)) and named[2] in EMODB_EMOTIONS:
        return "emodb", EMODB_EMOTIONS[named[2]], f"emodb {named[1]}"
    raise UsageError(f"{path} has no name as RAVDESS and EMO-DB give, so that nobody knows its emotion; take it away.")


def decode(reader: MediaReader, path: Path) -> np.ndarray:
    """All samples of a file at 16 kHz mono, through the decoder that the runtime uses."""
    chunks = [e.samples for e in reader.read(path, video=False) if isinstance(e, AudioChunk)]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.float32)


def load_speech(folder: Path, cache: Path) -> SpeechSet:
    """Features of every file under `folder`, computed once and kept in `cache` (an .npz of plain arrays).

    A cache knows the files by their names in the folder; one of an older version, which holds none, by their number.

    Raises:
        UsageError: the folder holds no .opus or .wav file, or one that is of no corpus; or the cache is of others.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix in RECORDINGS)
    if not files:
        raise UsageError(f"{folder} holds no .opus or .wav file; give the folder that has ravdess/ and emodb/ in it.")
    corpora, emotions, speakers = zip(*(describe(path) for path in files), strict=True)  # before 20 minutes of work
    recordings = [path.relative_to(folder).as_posix() for path in files]
    if not cache.is_file():
        with MediaReader() as reader:
            features = [extract(decode(reader, path)) for path in tqdm(files, desc="voice features")]
        lengths = np.array([len(x) for x in features])
        names = [f.name for f in AUDIO_FEATURES]
        save_arrays(cache, values=np.concatenate(features), lengths=lengths, names=names, recordings=recordings)
    stored = np.load(cache, allow_pickle=False)
    same = list(stored["recordings"]) == recordings if "recordings" in stored else len(stored["lengths"]) == len(files)
    if not same or list(stored["names"]) != [f.name for f in AUDIO_FEATURES]:
        raise UsageError(f"The cache {cache} was made from other files or features; delete it and run again.")
    features = np.split(stored["values"], np.cumsum(stored["lengths"])[:-1])
    return SpeechSet(features, np.array(emotions), np.array(corpora), np.array(speakers))
