"""What the personality encoder tells of held-out texts: python -m benchmarks.personality WEIGHTS

The figures are those that the training measured and wrote beside the weights; this adds the machine and prints a table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.measure import machine, save
from psamf_edge.compile.personality.model import RECORD

HEAD = "| held-out texts | trait | majority | accuracy | balanced accuracy | AUC | better than the majority |"


def rows_of(name: str, table: dict[str, dict]) -> list[str]:
    """One Markdown row a trait, and one for their mean."""
    rows = []
    for trait, values in table.items():
        cells = [f"{values['majority']:.3f}"]
        for key in ("accuracy", "balanced_accuracy", "auc"):
            low, high = values[f"{key}_interval"]
            cells.append("-" if values[key] is None else f"{values[key]:.3f} [{low:.2f}, {high:.2f}]")
        cells.append("yes" if values["beats_majority"] else "no")
        rows.append(f"| {name} | {trait} | {' | '.join(cells)} |")
    return rows


def markdown(metrics: dict[str, dict]) -> str:
    """Texts trait by trait, sentences by the mean of the traits: metrics[split][set][kind] is a table of `score`."""
    rows = [HEAD, "|---" * HEAD.count(" |") + "|"]
    for split, sets in metrics.items():
        for name, kinds in sets.items():
            for kind, table in kinds.items():
                n = table["n"]
                shown = {t: v for t, v in table.items() if t != "n" and (kind == "texts" or t == "mean")}
                what = name if kind == "texts" else f"sentences of {name}"
                rows += rows_of(f"{split}: {n} {what}", shown)
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, help="folder that the training wrote")
    record = json.loads((parser.parse_args().weights / RECORD).read_text())
    print(markdown(record["metrics"]))
    save("personality", {"machine": machine(), **record})


if __name__ == "__main__":
    main()
