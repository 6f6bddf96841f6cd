"""The student from labelled data to a weights directory: three stages, then what it scores on validation.

`out` keeps what an interrupted run goes on from: settings.toml, made-of.json, the features of voices and faces, the
results of stages 1 and 2 and the checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from psamf_edge.compile.calibration import apply
from psamf_edge.compile.command import CARRIED
from psamf_edge.compile.data.speech import SpeechSet
from psamf_edge.compile.data.text import TextSet, check_tokens
from psamf_edge.compile.files import atomic, copy_whole, write_tensors
from psamf_edge.compile.model import Student
from psamf_edge.compile.model.encoders import SequenceEncoder
from psamf_edge.compile.model.student import save_student
from psamf_edge.compile.training.epochs import Run, Validation
from psamf_edge.compile.training.fusion_stage import set_feature_scales, train_fusion
from psamf_edge.compile.training.made_of import remember
from psamf_edge.compile.training.objective import Source
from psamf_edge.compile.training.record import training_record, write_record
from psamf_edge.compile.training.settings import TrainSettings
from psamf_edge.compile.training.text_stage import merge_text, train_text
from psamf_edge.compile.training.training_data import given_parts, open_data
from psamf_edge.compile.training.validation import validate_samples
from psamf_edge.compile.training.voice_stage import VoiceTask, keep_voice, kept_voice, train_voice
from psamf_edge.errors import UsageError

COPIED = (*CARRIED, "NOTICE-mediapipe.txt")  # from the parts into the new weights
TEXT_STAGE, VOICE_STAGE = "text-stage.safetensors", "voice-stage.safetensors"
TEXT_PARTS = ("trunk.", "fusion.")  # what stage 1 trains


def train_student(
    data: Path | Sequence[Path],
    source: Source,
    parts: Path,
    out: Path,
    settings: TrainSettings,
    run: Run,
    command: str = "psamf-edge train student --data DATA --bert BERT -o OUT",
) -> dict:
    """All stages, evaluation on the validation splits, and the weights directory. Returns what training.json holds.

    Where `out` holds the result of stage 1 or 2 already, it is not repeated: `out` remembers the data and the source.

    Args:
        data: folder with mosi/, mosei/, speech/ and faces/; or feature files of real samples. These name no emotion, so
            that there is no stage 2, and the voice encoder learns in stage 3.
        source: what the student begins with, and what stages 1 and 3 descend.
        parts: weights directory with the face models and the vocabulary.
        out: weights directory to write.
        command: what the record says it was made by.

    Raises:
        UsageError: `out` was begun with other data or another source; or either cannot be learnt from.
    """
    started = time.monotonic()
    labelled = open_data(data, parts, out, settings, run)
    source.check_sizes(*labelled.sizes)
    with run.compute.main_first():
        remember(out, {**source.made_of(), **given_parts(parts)})
    text_stage(source, labelled.train, labelled.valid, out, settings, run)

    torch.manual_seed(settings.seed + 1)
    student = source.student(*labelled.sizes, settings.text_blocks)
    load_text_stage(student, out)
    samples = labelled.samples(np.random.default_rng(settings.seed + 1))
    set_feature_scales(student, samples)
    hear = None
    if labelled.speech:
        hear = voice_stage(student.audio, labelled.speech, out, settings, run).valence
    torch.manual_seed(settings.seed + 3)  # so that a stage 2 that is not repeated changes nothing

    def metrics() -> dict[str, float]:
        """The error of every subset of modalities, over the validation sets, and their mean."""
        tables = [validate_samples(student, judged, settings.batch) for judged in labelled.validation()]
        each = {f"mae.{name}": float(np.mean([table[name]["mae"] for table in tables])) for name in tables[0]}
        return {"mae": float(np.mean(list(each.values()))), **each}

    objective, validation = source.of_composed(samples.text.ids), Validation(metrics, "mae")
    train_fusion(student, samples, settings, run, objective, validation, hear, bool(labelled.speech))
    record = training_record(settings, labelled.record(), command=command)
    if source.unlabelled:
        record["data"]["sentences without labels"] = source.unlabelled
    if run.compute.is_main:
        student.cpu()
        try:
            calibration = labelled.calibrate(student, settings)
            apply(student, calibration)
            record["calibration"] = calibration.record
        except UsageError as error:  # too few validation samples: no reason to lose the training
            run.log.say(f"The confidence stays uncalibrated: {error}")
            record["calibration"] = None
        save_student(student, out)
        for name in COPIED:
            if (parts / name).resolve() != (out / name).resolve():
                copy_whole(parts / name, out / name)
        record["metrics"] = labelled.validate(student, settings)
        write_record(out, record)
    run.log.write("done", 0, {"minutes": (time.monotonic() - started) / 60})
    return record


def text_stage(
    source: Source, train: list[TextSet], valid: list[TextSet], out: Path, settings: TrainSettings, run: Run
) -> None:
    """Stage 1, unless `out` holds its result already."""
    done = run.compute.from_main((out / TEXT_STAGE).is_file())
    if done:
        if run.compute.is_main:
            run.forget("text")  # a kill may have come before it was
        return
    torch.manual_seed(settings.seed)
    student = source.student(1, 1, settings.text_blocks)  # the encoders are made anew after it
    train = [*train, *source.taught()]
    for text in (*train, *valid):
        check_tokens(text, student.config.bert.vocabulary)
    train_text(student, train, valid, settings, run, source.of_words(merge_text(train, settings.mosi_repeats).ids))
    if run.compute.is_main:
        state = {n: v.cpu().contiguous() for n, v in student.state_dict().items() if n.startswith(TEXT_PARTS)}
        with atomic(out / TEXT_STAGE) as new:
            write_tensors(new, state)
        run.forget("text")
    run.compute.from_main(None)  # the others may look for it now


def voice_stage(
    encoder: SequenceEncoder, speech: tuple[SpeechSet, SpeechSet], out: Path, settings: TrainSettings, run: Run
) -> VoiceTask:
    """Stage 2, unless `out` holds its result already; then that.

    It depends on the recordings, the seed and the settings of stage 2, and on nothing of the words, so that one voice
    may serve several students: copy VOICE_STAGE into the folder of the next.

    Args:
        encoder: of voices, with its feature scales set; gets the result.
        speech: recordings of the training speakers, and of others.

    Raises:
        UsageError: what `out` holds was made with other settings, or from recordings of other emotions.
    """
    path, (voices, others) = out / VOICE_STAGE, speech
    if run.compute.from_main(path.is_file()):
        task = kept_voice(path, encoder, voices, settings)
    else:
        torch.manual_seed(settings.seed + 2)
        encoder.apply(lambda part: part.reset_parameters() if hasattr(part, "reset_parameters") else None)
        task = train_voice(encoder, voices, settings, run, others)
        if run.compute.is_main:
            keep_voice(task, path, settings)
        run.compute.from_main(None)  # the others may look for it now
    if run.compute.is_main:
        run.forget("voice")
    return task.to(run.compute.device)


def load_text_stage(student: Student, out: Path) -> None:
    """Put the result of stage 1 into a student whose encoders are still new.

    Raises:
        UsageError: it is the result of another model.
    """
    result = student.load_state_dict(load_file(out / TEXT_STAGE), strict=False)
    if result.unexpected_keys or any(n.startswith(TEXT_PARTS) for n in result.missing_keys):
        raise UsageError(f"{out / TEXT_STAGE} does not fit this model; empty the folder and train anew.")
