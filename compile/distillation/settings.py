"""What a distillation depends on, beyond what every training of a student does."""

from __future__ import annotations

from dataclasses import dataclass

from psamf_edge.compile.training.settings import TrainSettings, within


@dataclass(frozen=True)
class DistilSettings(TrainSettings):
    """Weights of what the student takes from its teachers; 0 leaves a term out. The loss of the labels has weight 1."""

    distil_score: float = within(1.0, 0.0)  # stage 1: L1 to the teachers' mean score of the words
    distil_hidden: float = within(1.0, 0.0)  # CLS of the trunk to CLS after the teacher's block N
    distil_personality: float = within(1.0, 0.0)  # the student's head to the frozen encoder's vector
    distil_composed: float = within(1.0, 0.0)  # stage 3: L1 to the teachers' mean score of all modalities
    sentences_per_file: int = within(0, 0)  # at most, of sentences without labels, evenly spread over a file; 0: all
    distil_attention: float = within(0.1, 0.0)  # stage 3: where in a voice and a face the teacher looks
