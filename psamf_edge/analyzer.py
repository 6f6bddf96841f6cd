"""From a clip to its scores: the one path that the library, the command line and the benchmarks share."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from psamf_edge.clip import Clip, Stopwatch, read_clip
from psamf_edge.errors import InputError, UsageError
from psamf_edge.media.limits import Limits
from psamf_edge.media.reader import MediaReader
from psamf_edge.result import MODALITIES, ModelIdentity, Result, Segment, label_of
from psamf_edge.words.asr import Asr, open_asr
from psamf_edge.words.silence import speech_spans
from psamf_edge.words.subtitles import TextFile, read_text_file
from psamf_edge.words.transcript import Transcript, find_transcript, inside
from psamf_edge.words.utterances import MAX_UTTERANCE_MS, Utterance, plan_utterances, split_sentences

NO_CLIP = "-"  # what Result.clip says when words alone were scored


class Analyzer:
    """A loaded model that analyses clip after clip.

    Use it as a context manager, or call `close`. Threads may share one; their calls take turns. It belongs to the
    process that loaded it: one that is forked afterwards has neither its threads nor its decoder, and loads its own.

    Args:
        bundle: the `.psamf` directory, or None for the bundle that ships with psamf-edge.
        device: "auto", "cpu", "cuda", "onnxruntime-cuda" or "onnxruntime-tensorrt": see backends.open_backend.
        threads: for the CPU. One is fastest for short utterances.
        require_signature: a file of public keys, one of which must have signed the bundle (see psamf_edge.signature).
        limits: caps on each clip in place of the default ones, such as {"seconds": 600}: see psamf_edge.media.limits.

    Raises:
        UsageError: no such bundle, device, key file or limit.
        MissingDependencyError: a GPU or a signature was asked for and something it needs is not here.
        IntegrityError: a file of the bundle is damaged, or the bundle is not signed as required.
        BuildError: TensorRT builds no engine of a segment.
    """

    def __init__(
        self,
        bundle: Path | str | None = None,
        device: str = "auto",
        threads: int = 1,
        require_signature: Path | str | None = None,
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self._reader = MediaReader(Limits.of(limits))  # first: its child process starts while the models load here
        try:
            # Not at the top of the module: importing ONNX Runtime takes as long as the child does to start.
            from psamf_edge.scorer import Scorer

            self._scorer = Scorer(bundle, device, threads, require_signature)
        except BaseException:
            self._reader.close()
            raise
        self.model: ModelIdentity = self._scorer.identity
        self.note: str | None = self._scorer.note  # what the user should know about the choice of device
        self._recognisers: dict[str, Asr | None] = {}
        self._turn = threading.Lock()
        self._process: int | None = os.getpid()  # None once it is closed

    def __call__(
        self,
        clip: Path | str | None = None,
        *,
        text: str | None = None,
        transcript: Path | str | None = None,
        modalities: Collection[str] = MODALITIES,
        asr: str = "none",
        whole: bool = False,
        on_progress: Callable[[float], None] | None = None,
    ) -> Result:
        """Analyse one clip, or words alone.

        Args:
            clip: a local video, audio or image file. None: score `text` or `transcript` by itself; the result then has
                the clip "-" and the SHA-256 of the words.
            text: what is said, if known.
            transcript: a .srt, .vtt or .txt file of what is said. Without both, a sidecar file and embedded captions
                are looked for.
            modalities: which of "text", "audio" and "face" to use.
            asr: what recognises speech where no transcript is found: "none", "auto", "pocketsphinx" or
                "whisper:MODEL". Off unless asked for: words weigh most in the score, and the small recogniser mishears
                too many of them outside a quiet room.
            whole: score the clip as one utterance.
            on_progress: called with the share of the clip that is read, in [0, 1]; never for a clip that declares no
                length.

        Raises:
            UsageError: the arguments contradict each other, or name something that does not exist; or the Analyzer is
                closed, or was loaded before this process was forked.
            InputError: the clip cannot be read, or holds nothing that can be scored.
            MissingDependencyError: the recogniser is not installed.
        """
        self._check_open()
        request = Request(
            None if clip is None else Path(clip),
            text,
            None if transcript is None else Path(transcript),
            frozenset(modalities),
            asr,
            whole,
        )
        with self._turn:
            self._check_open()  # again: it may have been closed meanwhile, and the reader would start a new decoder
            watch = Stopwatch()
            with watch.stage("total"):
                # Opened even where the words are given: a recogniser that is not there is an error, needed or not.
                recogniser = self._recogniser(asr) if asr != "none" else None
                # And the file with the words: minutes of decoding before "there is no such file" would be wasted.
                named = None if request.transcript is None else read_text_file(request.transcript)
                material = self._read(request, watch, on_progress)
                with watch.stage("words"):
                    words = _find_words(request, named, material, recogniser)
                    if request.clip is None:
                        material = _words_alone(words)
                    spans = speech_spans(material.samples)
                    utterances = self._plan(request, material, words, spans)
                segments, reasons = self._scorer.score(material, utterances, spans, request.modalities, watch)
                warnings = material.warnings + words.warnings + self._remarks(request, material)
        warnings += [_counted(reason, count, len(utterances)) for reason, count in reasons.items()]
        if not segments:
            raise InputError(f"{json.dumps(material.name)} holds nothing that can be scored. {' '.join(warnings)}")
        score = mean_score(segments)
        return Result(
            clip=material.name,
            sha256=material.sha256,
            duration_ms=material.duration_ms,
            model=self.model,
            score=score,
            label=label_of(score),
            segments=segments,
            timing_ms=watch.ms,
            warnings=warnings,
        )

    def close(self) -> None:
        """End the decoder child and free the model. Closing twice is harmless."""
        self._process = None
        self._reader.close()
        self._scorer.close()

    def __enter__(self) -> Analyzer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._process is None:
            raise UsageError("This Analyzer is closed: load another.")
        if self._process != os.getpid():  # its lock and its second thread may never let go here
            raise UsageError(
                "This Analyzer was loaded before the process was forked: load one in each process, or start processes"
                " with multiprocessing's spawn."
            )

    def _recogniser(self, name: str) -> Asr | None:
        if name not in self._recognisers:
            self._recognisers = {name: open_asr(name)}  # the last one stays loaded
        return self._recognisers[name]

    def _read(self, request: Request, watch: Stopwatch, on_progress: Callable[[float], None] | None) -> Clip:
        if request.clip is None:
            return Clip(NO_CLIP)
        # The sound also tells where the speaker pauses, which is where the clip is cut into utterances.
        audio = "audio" in request.modalities or request.may_recognise or not request.whole
        face = self._scorer.face if "face" in request.modalities else None
        try:
            return read_clip(self._reader, request.clip, face, audio, self._scorer.shapes.face_rate, watch, on_progress)
        except Exception as error:  # whatever the reader stumbles over when it is gone
            if self._process is None:
                raise UsageError("This Analyzer was closed while it read a clip: load another.") from error
            raise

    def _plan(
        self, request: Request, material: Clip, words: Transcript, spans: list[tuple[int, int]]
    ) -> list[Utterance]:
        only_text = request.clip is None and not words.timed and words.text is not None
        if only_text and not request.whole and not self._scorer.fits(words.text):
            return [Utterance(0, 0, sentence) for sentence in split_sentences(words.text)]
        max_ms = min(MAX_UTTERANCE_MS, self._scorer.max_ms)
        return plan_utterances(words, spans, material.duration_ms, max_ms, request.whole)

    def _remarks(self, request: Request, material: Clip) -> list[str]:
        """What holds for the clip as a whole."""
        remarks = []
        if request.clip and "audio" in request.modalities and not material.has_audio:
            remarks.append("The clip has no sound.")
        if request.clip and "face" in request.modalities:
            faces = self._scorer.face.features(0, 0).faces_seen_max
            if not material.has_video:
                remarks.append("The clip has no pictures.")
            elif faces > 1:
                remarks.append(f"{faces} faces were seen at once; the largest one was taken.")
        return remarks


@dataclass(frozen=True)
class Request:
    """What one call asks for. Raises UsageError where it contradicts itself."""

    clip: Path | None
    text: str | None
    transcript: Path | None
    modalities: frozenset[str]
    asr: str
    whole: bool

    def __post_init__(self) -> None:
        unknown = sorted(self.modalities - set(MODALITIES))
        if unknown or not self.modalities:
            raise UsageError(
                f"The modalities {', '.join(unknown) or '(none)'} cannot be used; choose from {', '.join(MODALITIES)}."
            )
        if self.text is not None and self.transcript is not None:
            raise UsageError("Both a text and a transcript file were given; give one of them.")
        if self.clip is None and not self.words_given:
            raise UsageError("There is nothing to analyse: give a clip, a text or a transcript.")
        if self.words_given and "text" not in self.modalities:
            raise UsageError("Words were given, but text is not among the modalities; add it or leave the words out.")

    @property
    def words_given(self) -> bool:
        return self.text is not None or self.transcript is not None

    @property
    def may_recognise(self) -> bool:
        """Whether speech recognition could be needed."""
        return self.asr != "none" and self.clip is not None and "text" in self.modalities and not self.words_given


def mean_score(segments: list[Segment]) -> float:
    """The mean of the scores weighted by duration; unweighted where nothing has a duration."""
    weights = [segment.end_ms - segment.start_ms for segment in segments]
    if not any(weights):
        weights = [1] * len(segments)
    return sum(w * s.score for w, s in zip(weights, segments, strict=True)) / sum(weights)


def _find_words(request: Request, named: TextFile | None, material: Clip, recogniser: Asr | None) -> Transcript:
    if "text" not in request.modalities:
        return Transcript("none", [], None)
    words = find_transcript(request.clip, request.text, named, material.captions, material.samples, recogniser)
    return inside(words, material.duration_ms)


def _words_alone(words: Transcript) -> Clip:
    """Words as if they were a clip: as long as their captions say, or 0 ms."""
    sha256 = hashlib.sha256((words.text or "").encode("utf-8", "surrogatepass")).hexdigest()
    return Clip(NO_CLIP, sha256, words.timed[-1].end_ms if words.timed else 0)


def _counted(reason: str, count: int, utterances: int) -> str:
    return f"{reason}." if count == utterances else f"{reason}, in {count} of {utterances} utterances."
