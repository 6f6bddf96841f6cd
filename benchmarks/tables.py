"""Result files to Markdown. Nothing here needs PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

METRICS = {
    "mae": "MAE",
    "corr": "Corr",
    "acc7": "Acc-7",
    "acc2_has0": "Acc-2 has0",
    "acc2_non0": "Acc-2 non0",
    "f1_has0": "F1 has0",
    "f1_non0": "F1 non0",
}


def number(value: float) -> str:
    """To three decimals."""
    return f"{value:.3f}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: dict | None) -> str:
    """A mean with its deviation."""
    if value is None:
        return "-"
    return f"{value['mean']:.3f}" + (f" ± {value['sd']:.3f}" if value["sd"] is not None else "")


def ablations(rows: list[dict], name: str, corpora: str) -> str:
    """One table of the results as Markdown, corpus by corpus: first words alone and everything, then every subset."""
    chosen = [row for row in rows if (row["table"], row["corpora"]) == (name, corpora)]
    parts = []
    for corpus in dict.fromkeys(corpus for row in chosen for corpus in row["metrics"]):
        of = [(row, row["metrics"][corpus]) for row in chosen if corpus in row["metrics"]]
        samples = next(iter(of[0][1].values()))["samples"]
        title = f"{corpus.upper()} validation ({samples}), trained on {trained_on(of[0][0])}"
        parts += [headline(title, of), by_subset(title, of)]
    if judged := [row for row in chosen if row["alone"]]:
        parts.append(alone_table(judged))
    if name == "students" and (measured := [row for row in chosen if "bundles" in row]):
        parts.append(bundle_table(measured))
    return "\n\n".join(parts)


def trained_on(row: dict) -> str:
    """The corpora of sentences with their sizes."""
    return " and ".join(f"{name.upper()} ({count})" for name, count in row["data"]["text"].items())


def headline(title: str, rows: list[tuple[dict, dict]]) -> str:
    """Every metric of words alone, and what everything together changes."""
    words = [f"{name}, words" for name in METRICS.values()]
    header = [title, "text encoder", "seeds", *words, "MAE, all", "Acc-2 non0, all", "minutes"]
    lines = []
    for row, metrics in rows:
        words, everything = metrics.get("text", {}), metrics.get("all", {})
        cells = [cell(words.get(key)) for key in METRICS]
        cells += [cell(everything.get("mae")), cell(everything.get("acc2_non0"))]
        minutes = "-" if row["minutes"] is None else f"{row['minutes']:g}"
        lines.append([row["title"], row["encoder"], str(row["n"]), *cells, minutes])
    return table(header, lines)


def by_subset(title: str, rows: list[tuple[dict, dict]]) -> str:
    """The error of every subset of modalities, on composed samples."""
    subsets = max((list(metrics) for _, metrics in rows), key=len)  # a row may be judged on some alone
    lines = [
        [row["title"], str(row["n"]), *(cell(metrics.get(name, {}).get("mae")) for name in subsets)]
        for row, metrics in rows
    ]
    return table([f"{title}, MAE of each subset of modalities", "seeds", *subsets], lines)


def alone_table(rows: list[dict]) -> str:
    """Real voices and faces of people not trained on, one modality alone."""
    sets = list(rows[0]["alone"])
    lines = [[row["title"], str(row["n"]), *(cell(row["alone"].get(name)) for name in sets)] for row in rows]
    return table(["balanced accuracy of the valence sign", "seeds", *sets], lines)


def bundle_table(rows: list[dict]) -> str:
    """The compiled students: accuracy on words through the Analyzer, size and latency."""
    corpora = list(next(iter(rows[0]["bundles"].values()))["metrics"])
    header = ["compiled student", "seeds", *(f"{name}, {c.upper()}" for c in corpora for name in ("MAE", "Acc-2 non0")),
              "MB", "p50 ms", "p95 ms"]  # fmt: skip
    lines = []
    for row in rows:
        for precision, values in row["bundles"].items():
            cells = [cell(values["metrics"][c][key]) for c in corpora for key in ("mae", "acc2_non0")]
            times = values.get("latency_ms") or {}
            timed = [f"{times[key]:.1f}" if times else "-" for key in ("p50", "p95")]
            lines.append([f"{row['title']}, {precision}", str(values["n"]), *cells, f"{values['size_mb']:.1f}", *timed])
    return table(header, lines)


def conflicts(corpora: dict[str, list[dict]]) -> str:
    """The table as Markdown: mean shifts with their intervals, and the direction where there is a right one."""
    parts = []
    for corpus, rows in corpora.items():
        sides = dict.fromkeys(row["company"] for row in rows)
        header = [f"{corpus.upper()} validation: words", "with a", "n", "words alone", *sides]
        lines = {}
        for row in rows:
            start = [row["words"], row["with"], str(row["n"]), f"{row['words_alone']:+.2f}"]
            lines.setdefault((row["words"], row["with"]), start).append(shift_cell(row))
        parts.append(table(header, list(lines.values())))
    return "\n\n".join(parts)


def shift_cell(row: dict) -> str:
    """A shift, its interval and its direction."""
    interval = "" if row["interval"] is None else " [{:+.2f}, {:+.2f}]".format(*row["interval"])
    return f"{row['shift']:+.2f}{interval}" + (f" {row['direction']}" if "direction" in row else "")


SETS = {
    "text mosi": "words, CMU-MOSI",
    "text mosei": "words, CMU-MOSEI",
    "audio ravdess": "voice, RAVDESS actors not trained on",
    "audio emodb": "voice, EMO-DB speakers not trained on",
    "face fer2013": "face, FER2013 in a larger picture",
}
SHOWN = {
    "mae": "MAE",
    "corr": "Corr",
    "acc2_non0": "Acc-2 non0",
    "f1_non0": "F1 non0",
    "sign_accuracy": "valence sign",
    "found": "found",
}


def by_set(header: list[str], bundles: list[dict], count: str, show: Callable[[Any], str]) -> str:
    """Every measure of every validation set, a column for each bundle. `count` names the number of samples."""
    rows = [
        [f"{label} ({bundles[0][name][count]})", title, *(show(one[name][key]) for one in bundles)]
        for name, label in SETS.items()
        for key, title in SHOWN.items()
        if key in bundles[0][name] and (key != "found" or name.startswith("face"))  # no voice is missed
    ]
    return table(header, rows)


def composed(metrics: dict[str, dict], show: Callable[[Any], str]) -> str:
    """Every subset of modalities on composed samples; other sets are passed over."""
    shown = ("mae", "corr", "acc2_non0")
    rows = [
        [name.removeprefix("composed "), *(show(values[key]) for key in shown)]
        for name, values in metrics.items()
        if name.startswith("composed ")
    ]
    return table(["composed validation samples", *(SHOWN[key] for key in shown)], rows)


def seeds(record: dict) -> str:
    """Every measure of every validation set, of each precision; then composed samples."""
    header = [f"validation, {len(record['seeds'])} seeds", "measure", *record["bundles"]]
    alone = by_set(header, list(record["bundles"].values()), "samples", cell)
    return f"{alone}\n\n{composed(record['composed'], cell)}"


def beside_teacher(teacher: dict, students: dict) -> str:
    """MAE of the teacher's words, beside that of the students of all seeds, in fp32."""
    header = ["MAE, words, fp32", "the teacher", f"its students, {len(students['seeds'])} seeds", "further off"]
    rows = []
    for name, mae in teacher["mae"].items():
        student = students["composed"][f"composed {name}"]["mae"]
        corpus = name.removesuffix(" text").upper()
        rows.append([f"CMU-{corpus}", f"{mae:.3f}", cell(student), f"{student['mean'] - mae:.3f}"])
    return table(header, rows)


def voice_speakers(record: dict) -> str:
    """Voices of speakers not trained on, fold by fold; each corpus as a whole below its folds."""
    rows = record["rows"]
    lines = []
    for name in sorted(rows, key=lambda name: (name.split()[0] != "ravdess", name)):
        row, shown = rows[name], name + (", the validation split" if rows[name]["validation"] else "")
        lines.append([shown, str(row["recordings"]), str(row["happy"]), cell(row["sign_accuracy"]), cell(row["auc"])])
    header = ["speakers held out", "recordings", "happy", f"valence sign, {record['seeds']} seeds", "AUC"]
    return table(header, lines)


def calibration(record: dict) -> str:
    """What eight bits on a GPU cost, by the way that their ranges are found: every row measured."""
    return _calibration(record, record["rows"])


def calibration_in_short(record: dict) -> str:
    """The same with two rows for each rival: without smoothing, and with the alpha that came nearest on this data."""
    rivals: dict[tuple, list[dict]] = {}
    for row in record["rows"]:
        plain = row["smoothing"] in ("", "none", "by activation")
        rivals.setdefault((row["precision"], row["ranges"], plain, row["products"], row["data"]), []).append(row)
    return _calibration(record, [min(rows, key=lambda row: row["valid"]["gap"]) for rows in rivals.values()])


def _calibration(record: dict, rows: list[dict]) -> str:
    exact, company = record["fp32"], rows[0]["composed"]["n"]
    header = [
        f"MOSI validation ({exact['n']})", "ranges from", "smoothing", "products", "calibrated on", "MAE", "Acc-2 non0",
        "mean gap to fp32", "worst", f"mean gap with voice and face ({company})", "worst", "within bounds",
    ]  # fmt: skip
    lines = [["fp32", *[""] * 4, f"{exact['mae']:.3f}", f"{exact['acc2_non0']:.3f}", *[""] * 5]]
    for row in rows:
        how = [row[name] if row["ranges"] else "" for name in ("ranges", "smoothing", "products", "data")]
        scores = [f"{row['valid'][name]:.3f}" for name in ("mae", "acc2_non0")]
        gaps = [f"{row[of][name]:.3f}" for of in ("valid", "composed") for name in ("gap", "worst")]
        lines.append([row["precision"], *how, *scores, *gaps, "yes" if row["within_bounds"] else "no"])
    return table(header, lines)
