"""Texts with five binary traits: the essays of Pennebaker and King (1999), and the dialogues of FriendsPersona.

What a split must not give away: an essay is one author's only text, and dialogues of one scene stay together, because
two of its speakers share their lines' topic. FriendsPersona's six leads speak in most scenes, so their names are
masked; that a character of the training scenes also speaks in held-out scenes cannot be helped with so few.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psamf_edge.compile.data.table import open_table
from psamf_edge.errors import UsageError

TRAITS = ("openness", "conscientiousness", "extraversion", "agreeableness", "neuroticism")
ESSAY_COLUMNS = ("OPN", "CON", "EXT", "AGR", "NEU")  # in the order of TRAITS
DIALOGUE_COLUMNS = tuple(f"c{column}" for column in ESSAY_COLUMNS)
LABELS = {"0": 0.0, "1": 1.0, "False": 0.0, "True": 1.0}

SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}
NAME_MASK = "someone"  # an ordinary word, since the tokenizer reads "[MASK]" as characters
NICKNAMES = (
    "Pheebs",
    "Phoebs",
    "Phebes",
    "Phoebes",
    "Rach",
    "Mon",
    "Josh",
)  # said in the scenes, in no speaker's label

_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_LINE = re.compile(r"<b>([^<]*)</b>:(.*?)(?=<br>|<b>|$)", re.DOTALL)
_STAGE_DIRECTION = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")
_SCENE = re.compile(r"s?\d+_e\d+_c\d+")  # season, episode, scene; "(n)" after it numbers the dialogues of a scene


@dataclass(frozen=True)
class PersonalitySet:
    """Texts with labels (N, 5) of 0 and 1 in the order of TRAITS. Texts of one group (N,) never part in a split."""

    name: str
    texts: list[str]
    labels: np.ndarray
    groups: np.ndarray
    left_out: int = 0  # rows without a word

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, rows: np.ndarray) -> PersonalitySet:
        """Some of the texts. rows: (n,) indices."""
        return PersonalitySet(self.name, [self.texts[i] for i in rows], self.labels[rows], self.groups[rows])


def read_essays(path: Path) -> PersonalitySet:
    """essays.csv with the columns id, text and ESSAY_COLUMNS; each essay is a group of its own.

    Raises:
        UsageError: a column is missing, a label is not binary, or no row has text.
    """
    rows = list(_rows(path, ("id", "text", *ESSAY_COLUMNS)))
    return _build("essays", path, rows, ESSAY_COLUMNS, [plain(row["text"]) for row in rows], [r["id"] for r in rows])


def read_dialogues(path: Path) -> PersonalitySet:
    """friends_persona.csv: what the row's character says, without names and stage directions; scenes are the groups.

    Raises:
        UsageError: as `read_essays`, or a scene id has no season, episode and scene.
    """
    rows = list(_rows(path, ("characters", "raw_text", "scene_id", *DIALOGUE_COLUMNS)))
    spoken = [own_lines(row["raw_text"], row["characters"]) for row in rows]
    speakers = [name for row in rows for name, _ in _LINE.findall(row["raw_text"])]
    masked = mask_names(spoken, [*speakers, *(row["characters"] for row in rows)])
    scenes = []
    for row in rows:
        scene = _SCENE.match(row["scene_id"].strip())
        if scene is None:
            raise UsageError(f"{path}: the scene_id {row['scene_id']!r} must look like 01_e12_c08(0).")
        scenes.append(scene.group())
    return _build("dialogues", path, rows, DIALOGUE_COLUMNS, masked, scenes)


def plain(text: str) -> str:
    """Text without HTML tags and entities, its white space collapsed."""
    return " ".join(html.unescape(_TAG.sub(" ", text)).split())


def own_lines(markup: str, character: str) -> str:
    """The lines `<b>character</b>: ...` of a scene as plain text, without stage directions."""
    own = character.strip().casefold()
    lines = (line for name, line in _LINE.findall(markup) if name.strip().casefold() == own)
    return plain(" ".join(_STAGE_DIRECTION.sub(" ", line) for line in lines))


def mask_names(texts: Sequence[str], names: Sequence[str]) -> list[str]:
    """Replace every part of a name by NAME_MASK, except what the texts also write in lower case ("Girl", "Green")."""
    common = set(re.findall(r"\b[a-z]+\b", " ".join(texts)))
    parts = {part for name in (*names, *NICKNAMES) for part in re.findall(r"[A-Za-z]{2,}", name)}
    proper = sorted(part for part in parts if part.lower() not in common)
    if not proper:
        return list(texts)
    pattern = re.compile(rf"\b(?:{'|'.join(proper)})\b", re.IGNORECASE)
    return [pattern.sub(NAME_MASK, text) for text in texts]


def split_rows(groups: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Rows of train, valid and test: groups (N,) shuffled by `seed` and cut at SHARES, so that none is in two parts.

    Raises:
        UsageError: there are too few groups for three parts.
    """
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    cuts = np.round(np.cumsum(list(SHARES.values()))[:-1] * len(names)).astype(int)
    parts = np.split(names, cuts)
    if not all(map(len, parts)):
        raise UsageError(f"{len(names)} authors or scenes cannot be split into {', '.join(SHARES)}; give at least 10.")
    return {split: np.flatnonzero(np.isin(groups, part)) for split, part in zip(SHARES, parts, strict=True)}


def _rows(path: Path, needed: tuple[str, ...]) -> Iterator[dict[str, str]]:
    if not path.is_file():
        raise UsageError(f"{path} is missing; give the folder that holds essays.csv and friends_persona.csv.")
    with open_table(path, needed) as reader:
        for row in reader:
            if any(row[column] is None for column in needed):
                raise UsageError(f"{path}, line {reader.line_num}: the row is too short; the file may be cut off.")
            yield row


def _build(
    name: str, path: Path, rows: list[dict], columns: tuple[str, ...], texts: list[str], groups: list[str]
) -> PersonalitySet:
    kept = [i for i, text in enumerate(texts) if text]
    if not kept:
        raise UsageError(f"{path} has no row with text; it needs at least one.")
    for index in kept:
        for column in columns:
            if rows[index][column] not in LABELS:
                given = f"{column} is {rows[index][column]!r} in row {index + 1}"
                raise UsageError(f"{path}: {given}; a label must be one of {', '.join(LABELS)}.")
    labels = np.array([[LABELS[rows[i][column]] for column in columns] for i in kept], np.float32)  # (N, 5)
    return PersonalitySet(name, [texts[i] for i in kept], labels, np.array(groups)[kept], len(rows) - len(kept))
