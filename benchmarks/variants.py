"""The rows of the ablation tables: named settings, each trained with several seeds (python -m benchmarks.ablations).

No row is selected by what it scores: the last weights of a fixed number of epochs are kept, since the validation split
that would select is the one that the tables report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from psamf_edge.compile.distillation.settings import DistilSettings
from psamf_edge.compile.training.settings import LoopSettings, TrainSettings
from psamf_edge.compile.training.teacher_command import WITHOUT
from psamf_edge.compile.training.teacher_stage import TeacherSettings
from psamf_edge.compile.training.toml_settings import make_settings
from psamf_edge.compile.training.validation import SUBSETS
from psamf_edge.errors import UsageError

CORPORA = ("mosi", "mosei", "both")
KINDS = {"teacher": TeacherSettings, "distilled": DistilSettings, "plain": TrainSettings}
GROUPS = {"teacher": "teacher", "distilled": "student", "plain": "student"}  # what --set calls their settings

# what every row of a group begins with, where it differs from the defaults of `psamf-edge train` and `distill`
LARGE = {"teacher": ("patience=0", "epochs=5"), "student": ("text_blocks=6",)}
BASE = {
    "both": LARGE,
    "mosei": LARGE,
    # thirteen times fewer sentences: as many epochs as make some hundred steps of each stage
    "mosi": {
        "teacher": ("patience=0", "mosi_repeats=1", "epochs=10"),
        "student": ("text_blocks=6", "mosi_repeats=1", "text_epochs=8", "fusion_epochs=10"),
    },
}


@dataclass(frozen=True)
class Variant:
    """One row.

    name: of its folder, and for --only. kind: a key of KINDS. changes: the settings that make the row. subsets: of
    modalities that it was trained for and is therefore judged on. same_as: another row, TABLE/NAME, whose runs these
    are as well, since the settings are equal.
    """

    table: str
    name: str
    title: str
    kind: str
    changes: Mapping[str, object] = field(default_factory=dict)
    subsets: tuple[str, ...] = tuple(SUBSETS)
    same_as: str = ""

    @property
    def place(self) -> tuple[str, str]:
        """The table and the name of the folder with its runs."""
        table, _, name = (self.same_as or f"{self.table}/{self.name}").partition("/")
        return table, name


def teachers() -> list[Variant]:
    """PSA-MF's ablations, below the encoder fine-tuned by itself."""
    # without its parts and without company PSA-MF is the encoder, a layer to d, and a head over that and over what two
    # feed-forward layers make of it (the cross-modal blocks, whose context is none)
    bare = {name: value for change in WITHOUT.values() for name, value in change.items()}
    words = {**bare, "text_share": 1.0, "full_share": 0.0}
    rows = [
        Variant("teacher", "text-only", "text only, the encoder under the head alone", "teacher", words, ("text",)),
        Variant("teacher", "drawn", "PSA-MF as drawn", "teacher"),
        Variant("teacher", "released", "PSA-MF as released", "teacher", {"preset": "released"}),
    ]
    for part, change in WITHOUT.items():
        rows.append(Variant("teacher", f"no-{part}", f"drawn, without {part}", "teacher", change))
    similarity = {"alignment_weight": "similarity"}
    rows.append(Variant("teacher", "similarity", "drawn, alignment weighted by the similarity", "teacher", similarity))
    return rows


TERMS = ("score", "hidden", "personality", "composed", "attention")


def distilled() -> list[Variant]:
    """A student of the drawn teacher of the same seed, without each term of the distillation in turn."""
    rows = [Variant("distillation", "all-terms", "all terms", "distilled")]
    for term in TERMS:
        rows.append(Variant("distillation", f"no-{term}", f"without {term}", "distilled", {f"distil_{term}": 0.0}))
    nothing = {f"distil_{term}": 0.0 for term in TERMS}
    rows.append(Variant("distillation", "labels", "labels alone, from the teacher's blocks", "distilled", nothing))
    rows.append(Variant("distillation", "no-teacher", "labels alone, from the plain encoder", "plain"))
    return rows


def students() -> list[Variant]:
    """All terms, with fewer and fewer text blocks."""
    rows = [
        Variant("students", f"{blocks}-blocks", f"{blocks} text blocks", "distilled", {"text_blocks": blocks})
        for blocks in (3, 4, 5, 6)
    ]
    rows[-1] = replace(rows[-1], same_as="distillation/all-terms")  # the size of every student in that table
    return rows


TABLES = {"teacher": teachers(), "distillation": distilled(), "students": students()}
TEACHER = next(row for row in TABLES["teacher"] if row.name == "drawn")  # of every distillation


def choose(table: str | None, names: Iterable[str] = ()) -> list[Variant]:
    """The rows of one table, or of all; only those named, if any are.

    Raises:
        UsageError: there is no row of that name there.
    """
    rows = TABLES[table] if table else [row for rows in TABLES.values() for row in rows]
    known = {row.name for row in rows}
    for name in names:
        if name not in known:
            where = f"the table {table}" if table else "any table"
            allowed = ", ".join(dict.fromkeys(row.name for row in rows))
            raise UsageError(f"There is no row {name!r} in {where}; the rows are {allowed}.")
    return [row for row in rows if not names or row.name in names]


def parse_assignments(assignments: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """`GROUP.NAME=VALUE` options by group.

    Raises:
        UsageError: one names no group.
    """
    by_group: dict[str, tuple[str, ...]] = dict.fromkeys(GROUPS.values(), ())
    for assignment in assignments:
        group, _, rest = assignment.partition(".")
        if group not in by_group or "=" not in rest:
            raise UsageError(
                f"--set takes teacher.NAME=VALUE or student.NAME=VALUE, not {assignment!r}; for example --set "
                "teacher.epochs=5."
            )
        by_group[group] += (rest,)
    return by_group


def settings_of(variant: Variant, corpora: str, seed: int, assignments: Mapping[str, tuple[str, ...]]) -> LoopSettings:
    """Defaults, BASE, the assignments of its group, and what makes the row.

    Raises:
        UsageError: an assignment names no setting, or a value is not allowed.
    """
    group = GROUPS[variant.kind]
    given = [*BASE[corpora][group], *assignments.get(group, ())]
    return make_settings(KINDS[variant.kind], None, given, **variant.changes, corpora=corpora, seed=seed)
