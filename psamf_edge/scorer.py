"""The loaded model: utterances of a clip that was read go in, scored segments come out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path

from psamf_edge.backends import open_backend
from psamf_edge.bundle import open_bundle
from psamf_edge.clip import Clip, Stopwatch
from psamf_edge.face.features import FacePath
from psamf_edge.modalities import ABSENT, Part, audio_part, face_part, text_part
from psamf_edge.plan import Features, Outputs
from psamf_edge.result import MODALITIES, ModalityReport, ModelIdentity, Segment, label_of
from psamf_edge.words.utterances import Utterance
from psamf_edge.words.wordpiece import WordPiece

NOTHING_USABLE = "No modality was usable and nothing was scored"


class Scorer:
    """A bundle on a device. See `Analyzer` for the arguments and errors.

    identity: what results say of the model. note: what the user should know about the choice of device.
    face: give it the frames of a clip before that clip is scored.
    """

    def __init__(
        self, bundle: Path | str | None, device: str, threads: int, require_signature: Path | str | None = None
    ) -> None:
        opened = open_bundle(bundle, require_signature)
        self.shapes = opened.shapes
        self.wordpiece = WordPiece(opened.read("vocab.txt"))
        self.face = FacePath.open(opened.read)
        self._backend = open_backend(opened, device, threads)
        self.note = self._backend.note
        self.identity = ModelIdentity(opened.name, opened.manifest_sha256, self._backend.name, self._backend.precision)

    def close(self) -> None:
        """Free the model. Closing twice is harmless."""
        self._backend.close()

    @property
    def max_ms(self) -> int:
        """The longest utterance that the model takes whole."""
        sizes = self.shapes
        return min(sizes.max_audio_hops * sizes.audio_hop_ms, sizes.max_face_frames * 1000 // sizes.face_rate)

    def fits(self, text: str) -> bool:
        """Whether the model can read the text in one piece."""
        return not self.wordpiece.encode(text, self.shapes.max_tokens).truncated

    def score(
        self,
        clip: Clip,
        utterances: list[Utterance],
        spans: list[tuple[int, int]],
        modalities: Collection[str],
        watch: Stopwatch,
    ) -> tuple[list[Segment], Counter[str]]:
        """Score each utterance that has anything to score.

        Args:
            clip: the clip that `face` saw last.
            utterances: of this clip.
            spans: where somebody speaks in it, in ms.
            modalities: which to use.
            watch: counts the stages `words`, `audio`, `face` and `model`.

        Returns:
            the segments, and each thing that was amiss with the number of utterances in which it was.
        """
        segments, reasons = [], Counter()
        for utterance in utterances:
            parts = dict.fromkeys(MODALITIES, ABSENT)
            if "text" in modalities:
                with watch.stage("words"):
                    parts["text"] = text_part(self.wordpiece, utterance.text, self.shapes.max_tokens)
            if "audio" in modalities and clip.has_audio:
                with watch.stage("audio"):
                    parts["audio"] = audio_part(clip.samples, spans, utterance, self.shapes.max_audio_hops)
            if "face" in modalities and clip.has_video:
                with watch.stage("face"):
                    # A still image lasts 0 ms, and its one frame is at 0.
                    seen = self.face.features(utterance.start_ms, max(utterance.end_ms, utterance.start_ms + 1))
                    parts["face"] = face_part(seen, self.shapes.max_face_frames)
            reasons.update(reason for part in parts.values() for reason in part.reasons)
            features = Features(*(parts[name].values for name in MODALITIES))
            if not features.present:
                reasons[NOTHING_USABLE] += 1
                continue
            with watch.stage("model"):
                outputs = self._backend.run(features)
            segments.append(_segment(utterance, parts, outputs))
        return segments, reasons


def _segment(utterance: Utterance, parts: dict[str, Part], outputs: Outputs) -> Segment:
    return Segment(
        utterance.start_ms,
        utterance.end_ms,
        utterance.text,
        outputs.score,
        label_of(outputs.score),
        outputs.confidence,
        {name: ModalityReport(part.state, outputs.contributions.get(name)) for name, part in parts.items()},
    )
