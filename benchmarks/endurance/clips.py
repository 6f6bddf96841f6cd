"""Whole clips through one Analyzer, in random order, alone or with hostile files between them."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from benchmarks.endurance.readings import judge, read
from psamf_edge.analyzer import Analyzer
from psamf_edge.errors import InputError
from psamf_edge.result import Result

# Of this process, less than the rows of a face seen for four seconds, the least of a clip that could stay. Of the
# decoder, a tenth of a container that was opened and not closed (530 KB; with a frame decoded, 3.2 MB): its memory goes
# up and down by some MB with the clips' sizes.
MOST_BYTES_EACH = {"resident_mb": 10_000, "decoder_mb": 50_000}
TESTS = Path(__file__).parents[2] / "tests"


def said(result: Result) -> str:
    """All that a result says but for the time it took, with every digit."""
    return repr((result.sha256, result.duration_ms, result.model, result.score, result.segments, result.warnings))


def outcome(analyzer: Analyzer, clip: Path) -> str:
    """What a result says, or the sentence that refuses the clip; whatever else is raised is a fault and goes on."""
    try:
        return said(analyzer(clip))
    except InputError as error:
        return f"refused: {error}"


def run(
    clips: Sequence[Path],
    least: int,
    every: int = 10,
    minutes: float = 0.0,
    hostile: Sequence[Path] = (),
    bundle: Path | None = None,
    seed: int = 0,
) -> dict:
    """Analyse every clip in random order, round after round, with a hostile one behind each.

    Args:
        clips: honest ones.
        least: analyses of honest clips; and every clip at least twice.
        every: honest clips between two readings.
        minutes: how long at least.
        hostile: each must end in a result or a sentence, and the same one each time.
        bundle: a model, or None for the one that ships.
        seed: of the order.

    Returns:
        the record of the section; `complaints` is empty where all is well.
    """
    rng = random.Random(seed)
    until = time.monotonic() + 60 * minutes
    first: dict[Path, str] = {}
    times: Counter[Path] = Counter()
    differing: Counter[Path] = Counter()
    done, readings, faults = 0, [], []

    def analyse(clip: Path) -> None:
        try:
            heard = outcome(analyzer, clip)
        except Exception as error:  # the run goes on: how often and over what is what it is for
            faults.append(f"{clip.name}: {type(error).__name__}: {error}")
            return
        times[clip] += 1
        differing[clip] += heard != first.setdefault(clip, heard)

    with Analyzer(bundle, device="cpu") as analyzer:
        for clip in (*clips, *hostile):
            analyse(clip)  # the warm-up: every clip once
        readings.append(read(0))
        while done < least or time.monotonic() < until:
            for clip in rng.sample(clips, len(clips)):
                analyse(clip)
                done += 1
                if hostile:
                    analyse(rng.choice(hostile))
                if done % every == 0:
                    readings.append(read(done))
            print(f"  {done} clips, {readings[-1].resident_mb:.1f} MB", end="\r", file=sys.stderr)
    print(file=sys.stderr)  # below the line of progress
    if readings[-1].done != done:
        readings.append(read(done))
    figures, complaints = judge(readings, MOST_BYTES_EACH)
    complaints += faults
    complaints += [f"{clip.name} differs from its first time in {count} of {times[clip]}."
                   for clip, count in differing.items() if count]  # fmt: skip
    for clip in clips:
        if first.get(clip, "").startswith("refused"):
            complaints.append(f"{clip.name} was {first[clip]}")
    refused = {clip: first[clip] for clip in hostile if first.get(clip, "").startswith("refused")}
    complaints += [f"The refusal is no sentence: {text}" for text in refused.values() if not is_sentence(text)]
    return {
        "analyses": sum(times.values()),
        "times": [times[clip] for clip in clips],  # without their names, which may be of people
        "hostile": {"files": len(hostile), "analyses": sum(times[clip] for clip in hostile), "refused": len(refused)},
        "differing": sum(differing.values()),
        "complaints": complaints,
        **figures,
    }


def soak(clips: Sequence[Path], least: int, minutes: float, seed: int) -> dict:
    """`run` with the attacks of the tests between the clips."""
    with tempfile.TemporaryDirectory() as folder:
        return run(clips, least, minutes=minutes, hostile=write_hostile(Path(folder)), seed=seed)


def is_sentence(text: str) -> bool:
    """One printable line that ends with a full stop, and no error of which nobody thought."""
    return text.isprintable() and text.endswith(".") and "unexpected" not in text


def write_hostile(folder: Path, names: Collection[str] | None = None) -> list[Path]:
    """The files of tests/attacks, or those of these names."""
    sys.path.insert(0, str(TESTS))  # they share the tests' own writers of media
    from tests.attacks.media import ATTACKS

    chosen = [name for name in ATTACKS if names is None or name in names]
    for name in chosen:
        ATTACKS[name](folder / name)
    return [folder / name for name in chosen]
