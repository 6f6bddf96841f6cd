"""What a run folder was made of: a training goes on with the data, encoders and teachers that it was begun with.

Its settings are remembered by toml_settings.py. What a checkpoint or a kept stage was computed from can be seen in
neither, and the record of the training names whatever the last call was given.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from psamf_edge.compile.files import atomic
from psamf_edge.errors import UsageError

MADE_OF = "made-of.json"  # in a run folder
# bytes. Label files, recordings, pictures and small encoders count whole; of a large encoder or teacher, 256 stretches
# are read in place of a gigabyte, as a training moves every weight
WHOLE = 128 << 20
STRETCHES, STRETCH = 256, 64 << 10


@dataclass(frozen=True)
class Ingredient:
    """Something that a call is given and its result depends on.

    name: for people. It may change, as a folder may be moved.
    key: of the content; "" where nothing is given.
    """

    name: str
    key: str

    @classmethod
    def of_files(cls, name: str, files: Mapping[str, Path]) -> Ingredient:
        """By what the files hold and what they are called here, wherever they lie; one larger than WHOLE by its size
        and stretches of it.
        """
        digest = hashlib.sha256()
        for label, path in files.items():
            digest.update(f"{label}\n{_content(path)}\n".encode())
        return cls(name, digest.hexdigest())

    @classmethod
    def of_folder(cls, folder: Path, *names: str) -> Ingredient:
        """By those of the named files that the folder has."""
        return cls.of_files(folder.resolve().name, {name: folder / name for name in names if (folder / name).is_file()})

    def __str__(self) -> str:
        return f"{self.name} {self.key[:8]}".rstrip()


NOTHING = Ingredient("none", "")


def remember(folder: Path, ingredients: Mapping[str, Ingredient]) -> None:
    """Write what a call is given, by its option, into a run folder, or hold it against what the folder was begun with.

    What the folder does not know yet is written beside the rest: one that an older version began goes on, and remembers
    from then on.

    Raises:
        UsageError: something differs; the sentence says what was given then and now.
    """
    path = folder / MADE_OF
    had = _read(path) if path.is_file() else {}
    differing = [name for name, now in ingredients.items() if name in had and had[name].key != now.key]
    if differing:
        shown = ", ".join(f"{name} ({had[name]} there, {ingredients[name]} now)" for name in differing)
        raise UsageError(
            f"{folder} was begun with something else: {shown}. Go on with what was given there, or choose another "
            "folder."
        )
    if not ingredients.keys() <= had.keys():
        everything = {name: asdict(one) for name, one in ({**ingredients, **had}).items()}
        with atomic(path) as new:
            new.write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Ingredient]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {name: Ingredient(str(one["name"]), str(one["key"])) for name, one in stored.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged; delete it to go on with what this call is given.") from error


def _content(path: Path) -> str:
    """SHA-256 of a file, or of its size and of stretches that are spread from its first byte to its last."""
    size = path.stat().st_size
    if size <= WHOLE:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(STRETCHES):
            file.seek((size - STRETCH) * number // (STRETCHES - 1))
            digest.update(file.read(STRETCH))
    return digest.hexdigest()
