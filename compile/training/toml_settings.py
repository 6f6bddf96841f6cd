"""Settings from TOML files and `name=value` options, and the run folder that remembers its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from psamf_edge.compile.files import atomic
from psamf_edge.compile.training.settings import LoopSettings, describe, type_name
from psamf_edge.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Settings = TypeVar("Settings", bound=LoopSettings)
REMEMBERED = "settings.toml"


def make_settings(
    kind: type[Settings], file: Path | None = None, assignments: Iterable[str] = (), **options: Any
) -> Settings:
    """Defaults, then the TOML file, then `name=value` assignments, then options that are not None.

    Raises:
        UsageError: the file is no TOML, a name is unknown, a value is of the wrong type or out of range.
    """
    values = read_toml(file) if file else {}
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise UsageError(f"--set takes NAME=VALUE, not {assignment!r}; for example --set batch=16.")
        values[name.strip()] = _parse(kind, name.strip(), text.strip())
    values |= {name: value for name, value in options.items() if value is not None}
    _check_names(kind, values)
    return kind(**values)


def read_toml(file: Path) -> dict[str, Any]:
    """The top-level table of a TOML file."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # of the decoding or of the syntax
        raise UsageError(f"{file} is no TOML file: {error}.") from None


def to_toml(settings: LoopSettings) -> str:
    """All settings, one a line, in the order of their definition."""
    # JSON's strings, numbers and booleans are TOML's as well; our values are nothing else
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in asdict(settings).items())


def remember(folder: Path, settings: LoopSettings) -> None:
    """Write the settings into a run folder, or hold them against those the folder was begun with.

    Raises:
        UsageError: they differ; the sentence names the settings that do.
    """
    path = folder / REMEMBERED
    wanted = asdict(settings)
    if path.is_file():
        begun = read_toml(path)
        differing = sorted(n for n in {*begun, *wanted} if begun.get(n) != wanted.get(n))
        if differing:
            shown = ", ".join(f"{n} ({begun.get(n, 'absent')} there, {wanted.get(n, 'absent')} now)" for n in differing)
            raise UsageError(f"{folder} was begun with other settings: {shown}. Use those, or choose another folder.")
        return
    with atomic(path) as new:
        new.write_text(to_toml(settings), encoding="utf-8")


def _check_names(kind: type[LoopSettings], values: Mapping[str, Any]) -> None:
    allowed = [item.name for item in fields(kind)]
    for name in values:
        if name not in allowed:
            raise UsageError(f"There is no setting {name!r}; the settings are {', '.join(allowed)}.")


def _parse(kind: type[LoopSettings], name: str, text: str) -> Any:
    """The text of an assignment as its field's type; out of range is left to the settings themselves."""
    _check_names(kind, {name: text})
    item = next(item for item in fields(kind) if item.name == name)
    if type_name(item) == "str":
        return text
    if type_name(item) == "bool" and text in ("true", "false"):
        return text == "true"
    try:
        return {"int": int, "float": float}[type_name(item)](text)
    except (KeyError, ValueError):
        raise UsageError(f"The setting {name} is {describe(item)}, not {text!r}.") from None
