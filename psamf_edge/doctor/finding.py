"""One line of the report."""

from __future__ import annotations

from dataclasses import dataclass

OK, NOTE, MISSING, BROKEN = STATES = ("ok", "note", "missing", "broken")


@dataclass(frozen=True)
class Finding:
    """What was looked for and what was found.

    Args:
        group: "machine", "packages" or "bundle".
        name: of the thing.
        state: "ok"; "note", it works and could be better; "missing", and something optional needs it; "broken", and
            psamf-edge cannot do its work.
        detail: version, place, or what is the matter.
        mend: the line to type or the step to take; None where nothing is wrong.
        serves: what a missing thing would give.
    """

    group: str
    name: str
    state: str
    detail: str
    mend: str | None = None
    serves: str | None = None
