"""Training of the personality encoder: five traits at once, on windows of essays and dialogues."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch import nn

from psamf_edge.compile.data.padding import pad
from psamf_edge.compile.personality.data import PersonalitySet, read_dialogues, read_essays, split_rows
from psamf_edge.compile.personality.evaluation import average, cross_entropy, predict, score
from psamf_edge.compile.personality.model import RECORD, PersonalityEncoder, save_personality
from psamf_edge.compile.personality.windows import cut, encode_sentences
from psamf_edge.compile.training.batching import LengthBatches
from psamf_edge.compile.training.device import to_tensors
from psamf_edge.compile.training.epochs import Loss, Run, Validation, run_epochs
from psamf_edge.compile.training.loop import Trainer
from psamf_edge.compile.training.settings import LoopSettings, within
from psamf_edge.errors import UsageError
from psamf_edge.words.wordpiece import WordPiece

READERS = {"essays.csv": read_essays, "friends_persona.csv": read_dialogues}
CHECKPOINT = ("config.json", "model.safetensors", "vocab.txt")
TOLD = ("majority", "accuracy", "balanced_accuracy", "auc")  # of the mean over traits, in the log


@dataclass(frozen=True)
class PersonalitySettings(LoopSettings):
    """Settings of the training, written beside the weights."""

    split_seed: int = within(0, 0, 2**32 - 1)  # apart from `seed`, so that runs of several seeds share held-out texts
    max_tokens: int = within(96, 3, 512)  # what p is computed from: the longest utterance of the sentiment model
    min_tokens: int = within(16, 3, 512)  # windows of a text are cut at a random length: half of all speech is shorter
    epochs: int = within(1, 1)
    dialogue_repeats: int = within(3, 1)  # the essays have forty times the words
    trained_blocks: int = within(3, 0)  # from the top; two thousand authors are few for the rest and the embeddings
    encoder_lr: float = within(5e-5, 0.0)
    head_lr: float = within(5e-4, 0.0)
    dropout: float = within(0.1, 0.0, 1.0)
    average_decay: float = within(0.99, 0.0, 1.0)  # the last hundred steps of some 1500

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_tokens > self.max_tokens:
            raise UsageError(f"min_tokens is {self.min_tokens}; it must be at most max_tokens, {self.max_tokens}.")


@dataclass(frozen=True)
class Corpus:
    """One set as sentences of token ids, and its rows by split."""

    texts: PersonalitySet
    sentences: list[list[np.ndarray]]  # of each text
    rows: dict[str, np.ndarray]


def train_personality(data: Path, bert: Path, out: Path, settings: PersonalitySettings, run: Run) -> dict:
    """Train, save and measure, unless `out` holds the result of the same settings and files already.

    Args:
        data: folder with essays.csv and friends_persona.csv.
        bert: Hugging Face BERT checkpoint with config.json, model.safetensors and vocab.txt.
        out: gets personality.safetensors and personality.json.

    Returns:
        What personality.json holds: config, settings, sources, counts, metrics of the validation and the test split.

    Raises:
        UsageError: a file is missing or unfit, or `out` holds another training.
    """
    sources = hash_files([*(data / name for name in READERS), *(bert / name for name in CHECKPOINT)])
    identity = {"settings": asdict(settings), "sources": sources}
    if (out / RECORD).is_file():
        record = json.loads((out / RECORD).read_text())
        if {name: record.get(name) for name in identity} != identity:
            raise UsageError(f"{out} holds an encoder of other settings or files; choose another folder or empty it.")
        return record

    started = time.monotonic()
    wordpiece = WordPiece((bert / "vocab.txt").read_bytes())
    ends = tuple(wordpiece.encode("").ids)  # [CLS], [SEP]
    corpora = [read_corpus(read(data / name), wordpiece, settings) for name, read in READERS.items()]
    torch.manual_seed(settings.seed)
    encoder = PersonalityEncoder.from_bert(bert, settings.dropout).to(run.compute.device)
    if settings.max_tokens > encoder.config.positions:
        raise UsageError(f"max_tokens is {settings.max_tokens}; {bert} allows at most {encoder.config.positions}.")
    fit(encoder, corpora, ends, settings, run)
    record = {
        "date": date.today().isoformat(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        **identity,
        "counts": {c.texts.name: {split: len(rows) for split, rows in c.rows.items()} for c in corpora},
        "left_out": {c.texts.name: c.texts.left_out for c in corpora},
        "training_minutes": round((time.monotonic() - started) / 60, 1),  # of this call, if it went on from another
    }
    if run.compute.is_main:
        encoder.half().float()  # rounded as the file is, so that what is measured is what will be loaded
        record["metrics"] = {"valid": {}, "test": {}}
        for split, tables in record["metrics"].items():
            for corpus in corpora:
                tables[corpus.texts.name] = told = evaluate(encoder, corpus, split, ends, settings)
                means = {f"{kind}.{key}": rows["mean"][key] for kind, rows in told.items() for key in TOLD}
                means = {name: value for name, value in means.items() if value is not None}
                run.log.write(f"personality {split} {corpus.texts.name}", 0, means)
        record = save_personality(encoder, out, record)
    return run.compute.from_main(record)


def hash_files(paths: list[Path]) -> dict[str, str]:
    """SHA-256 of each file by its name.

    Raises:
        UsageError: a file is missing.
    """
    for path in paths:
        if not path.is_file():
            raise UsageError(
                f"{path} is missing; the data folder needs {', '.join(READERS)}, the checkpoint its files."
            )
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def read_corpus(texts: PersonalitySet, wordpiece: WordPiece, settings: PersonalitySettings) -> Corpus:
    """Tokenize and split one set."""
    sentences = [encode_sentences(text, wordpiece) for text in texts.texts]
    return Corpus(texts, sentences, split_rows(texts.groups, settings.split_seed))


def training_windows(
    corpora: list[Corpus], ends: tuple[int, int], settings: PersonalitySettings, rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray]:
    """Windows (L_i,) and their labels (W, 5): every text once an epoch, each time cut at another length."""
    windows, labels = [], []
    for corpus in corpora:
        repeats = settings.epochs * (settings.dialogue_repeats if corpus.texts.name == "dialogues" else 1)
        for row in np.repeat(corpus.rows["train"], repeats):
            made = cut(corpus.sentences[row], rng.integers(settings.min_tokens, settings.max_tokens + 1), ends)
            windows += made
            labels += [corpus.texts.labels[row]] * len(made)
    return windows, np.array(labels)


def fit(
    encoder: PersonalityEncoder, corpora: list[Corpus], ends: tuple[int, int], settings: PersonalitySettings, run: Run
) -> None:
    """Train the head and the upper blocks in place; leaves the averaged weights, in evaluation mode."""
    rng = np.random.default_rng(settings.seed)
    windows, labels = training_windows(corpora, ends, settings, rng)
    batches = LengthBatches(np.array([len(window) for window in windows]), settings.batch, rng)
    upper = encoder.trunk.blocks[max(0, len(encoder.trunk.blocks) - settings.trained_blocks) :]
    groups = []
    encoder.requires_grad_(False)
    for part, lr in ((upper, settings.encoder_lr), (encoder.head, settings.head_lr)):
        part.requires_grad_(True)
        groups.append({"params": list(part.parameters()), "lr": lr})

    def loss_of(rows: np.ndarray) -> Loss:
        own = rows[run.compute.part()]
        ids, mask = pad([windows[i] for i in own], np.int64)
        ids, mask, traits = to_tensors((ids, mask, labels[own]), run.compute.device)
        with run.compute.autocast(settings.bfloat16):
            logits = encoder(ids, mask)  # (B, 5)
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), traits)
        return loss, {"loss": loss.detach()}

    def metrics() -> dict[str, float]:
        """Cross entropy of whole texts, the mean over traits and sets."""
        each = {}
        for corpus in corpora:
            p, rows = answer(encoder, corpus, "valid", ends, settings)
            each[f"loss.{corpus.texts.name}"] = cross_entropy(p, corpus.texts.labels[rows])
        return {"loss": float(np.mean(list(each.values()))), **each}

    encoder.train()
    trainer = Trainer(encoder, groups, len(batches), settings, run.compute)
    judged = Validation(metrics, "loss")
    run_epochs(trainer, batches, loss_of, run, "personality", {"rows": rng}, judged, log_every=50)


def answer(
    encoder: PersonalityEncoder,
    corpus: Corpus,
    split: str,
    ends: tuple[int, int],
    settings: PersonalitySettings,
    join: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, 5), and the rows (N,) of `corpus` that they are of: each text of the split once, as the mean of
    its windows, or without `join` each of its sentences alone."""
    rows = corpus.rows[split]
    cuts = [cut(corpus.sentences[row], settings.max_tokens, ends, join) for row in rows]
    owners = np.repeat(np.arange(len(rows)), [len(windows) for windows in cuts])  # (W,)
    probabilities = predict(encoder, [window for windows in cuts for window in windows])
    return (average(probabilities, owners), rows) if join else (probabilities, rows[owners])


def evaluate(
    encoder: PersonalityEncoder, corpus: Corpus, split: str, ends: tuple[int, int], settings: PersonalitySettings
) -> dict[str, dict]:
    """Tables of one split: "texts", the mean over all windows of a text, and "sentences", each answered alone as in
    use. See `evaluation.score` for a table; n is how many there are.
    """
    tables = {}
    for kind, join in (("texts", True), ("sentences", False)):
        probabilities, rows = answer(encoder, corpus, split, ends, settings, join)
        tables[kind] = {"n": len(rows), **score(probabilities, corpus.texts.labels[rows], corpus.texts.groups[rows])}
    return tables
