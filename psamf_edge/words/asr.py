"""Speech recognition, where it is installed: words with times for clips that come without a transcript."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from functools import cached_property
from typing import Protocol

import numpy as np

from psamf_edge.errors import MissingDependencyError, UsageError
from psamf_edge.words.silence import MIN_PAUSE_MS, SAMPLE_RATE, speech_spans
from psamf_edge.words.timed import TimedText

MAX_CAPTION_MS = 10_000  # captions stay below the 15 s of an utterance, so that planning can still choose cuts
FRAMES_PER_SECOND = 100  # of the PocketSphinx acoustic model; segment times come in frames
_INSTALL = "pip install 'psamf-edge[asr]'"
_CHOICES = "auto, none, pocketsphinx or whisper:MODEL (a folder or the name of a faster-whisper model)"


class Asr(Protocol):
    """What recognises speech."""

    def transcribe(self, samples: np.ndarray) -> list[TimedText]:
        """Captions of float32 samples (N,), 16 kHz mono in [-1, 1]; empty when no word was heard."""
        ...


def open_asr(name: str, allow_download: bool = False) -> Asr | None:
    """The recogniser called `name`: "auto" (PocketSphinx if installed), "none", "pocketsphinx" or "whisper:MODEL".

    Raises:
        UsageError: another name, or a Whisper model that is not there.
        MissingDependencyError: the package is not installed.
    """
    kind, _, model = name.partition(":")
    if name == "none":
        return None
    if name == "auto":
        return PocketSphinx() if importlib.util.find_spec("pocketsphinx") else None
    if name == "pocketsphinx":
        return PocketSphinx()
    if kind == "whisper" and model:
        return FasterWhisper(model, allow_download=allow_download)
    raise UsageError(f"The speech recogniser {name!r} is not known; allowed are {_CHOICES}.")


class PocketSphinx:
    """CMU PocketSphinx with the US English model of its wheel: offline and small, but weak outside clean speech."""

    def __init__(self):
        try:
            import pocketsphinx
        except ImportError as error:
            raise MissingDependencyError(f"PocketSphinx is not installed; {_INSTALL}.") from error
        self._open_decoder = pocketsphinx.Decoder

    @cached_property
    def _decoder(self):
        """Opened on first use: it takes 0.6 s, which a clip with a transcript need not pay."""
        return self._open_decoder(samprate=SAMPLE_RATE, loglevel="FATAL")  # stderr belongs to the user

    def transcribe(self, samples: np.ndarray) -> list[TimedText]:
        """See `Asr`. Each stretch of speech is decoded by itself: silence costs time and invites invented words."""
        samples = np.nan_to_num(np.asarray(samples, dtype=np.float32), posinf=0.0, neginf=0.0)  # (N,)
        pcm = (np.clip(samples, -1.0, 1.0) * 32767).astype("<i2")  # (N,)
        words = []
        for start_ms, end_ms in speech_spans(samples):
            span = pcm[start_ms * SAMPLE_RATE // 1000 : end_ms * SAMPLE_RATE // 1000]
            words += self._decode_span(span, start_ms)
        return group_words(words)

    def _decode_span(self, pcm: np.ndarray, start_ms: int) -> list[TimedText]:
        self._decoder.start_utt()
        self._decoder.process_raw(pcm.tobytes(), full_utt=True)
        self._decoder.end_utt()
        frame_ms = 1000 // FRAMES_PER_SECOND
        return [
            TimedText(
                start_ms + segment.start_frame * frame_ms,
                start_ms + (segment.end_frame + 1) * frame_ms,
                " " + segment.word.split("(")[0].rstrip("."),  # the(2) is a second pronunciation; "c." ends no sentence
            )
            for segment in self._decoder.seg() or []
            if segment.word[0] not in "<["  # <s>, <sil>, [NOISE]
        ]


class FasterWhisper:
    """A Whisper model run by faster-whisper.

    Args:
        model: a folder in CTranslate2 format, or a model name such as "base.en" that is in the local cache.
        device: "auto", "cpu" or "cuda".
        allow_download: let faster-whisper fetch a model that is named and not in the cache.

    Raises:
        MissingDependencyError: faster-whisper is not installed.
        UsageError: the model cannot be opened.
    """

    def __init__(self, model: str, device: str = "auto", allow_download: bool = False):
        try:
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise MissingDependencyError(f"faster-whisper is not installed; {_INSTALL}.") from error
        try:
            self._model = WhisperModel(
                model, device=device, compute_type="default", local_files_only=not allow_download
            )
        except Exception as error:  # ValueError, RuntimeError and several of huggingface_hub
            raise UsageError(
                f"The Whisper model {model!r} cannot be opened ({error}); give a folder with a CTranslate2 model, "
                "or a name that was downloaded before."
            ) from error

    def transcribe(self, samples: np.ndarray) -> list[TimedText]:
        """See `Asr`."""
        samples = np.nan_to_num(np.asarray(samples, dtype=np.float32), posinf=0.0, neginf=0.0)  # (N,)
        if not speech_spans(samples):  # Whisper invents sentences for silence
            return []
        segments, _ = self._model.transcribe(
            samples, language="en", word_timestamps=True, vad_filter=True, condition_on_previous_text=False
        )
        words = [word for segment in segments for word in segment.words or []]
        return group_words(TimedText(round(w.start * 1000), round(w.end * 1000), w.word) for w in words)


def group_words(words: Iterable[TimedText]) -> list[TimedText]:
    """Captions from single words, cut at pauses, at ends of sentences and before MAX_CAPTION_MS.

    The texts are joined as they are, so a word that follows a space must begin with one.
    """
    groups: list[list[TimedText]] = []
    for word in words:
        last = groups[-1] if groups else None
        if (
            last
            and word.start_ms - last[-1].end_ms < MIN_PAUSE_MS
            and word.end_ms - last[0].start_ms <= MAX_CAPTION_MS
            and not last[-1].text.endswith((".", "?", "!"))
        ):
            last.append(word)
        else:
            groups.append([word])
    captions = [TimedText(g[0].start_ms, g[-1].end_ms, "".join(w.text for w in g).strip()) for g in groups]
    return [caption for caption in captions if caption.text]
