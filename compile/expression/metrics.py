"""How well expression probabilities match labels: the figures that every result file of the expression net reports."""

from __future__ import annotations

import numpy as np

from psamf_edge.compile.data.valence import NEGATIVE
from psamf_edge.face.expression import EXPRESSIONS

HAPPY = EXPRESSIONS.index("happy")
NEGATIVES = [EXPRESSIONS.index(name) for name in NEGATIVE]


def score(probabilities: np.ndarray, labels: np.ndarray) -> dict:
    """Metrics of one view of one set.

    Args:
        probabilities: (N, 7).
        labels: (N,) index into EXPRESSIONS.

    Returns:
        faces: N. accuracy: of 7 classes. mean_recall: over the classes that occur. cross_entropy: nats.
        valence_sign: balanced accuracy of happy against NEGATIVE, among the faces so labelled, decided by P(happy)
        against the sum of the negatives; None without both. confusion: rows are labels, columns decisions, both in the
        order of EXPRESSIONS.
    """
    decided = probabilities.argmax(axis=1)
    confusion = np.zeros((len(EXPRESSIONS), len(EXPRESSIONS)), np.int64)
    np.add.at(confusion, (labels, decided), 1)
    counts = confusion.sum(axis=1)
    recall = confusion.diagonal()[counts > 0] / counts[counts > 0]
    own = probabilities[np.arange(len(labels)), labels]
    positive = probabilities[:, HAPPY] > probabilities[:, NEGATIVES].sum(axis=1)
    hits = [positive[labels == HAPPY], ~positive[np.isin(labels, NEGATIVES)]]
    return {
        "faces": len(labels),
        "accuracy": round(float((decided == labels).mean()), 4),
        "mean_recall": round(float(recall.mean()), 4),
        "cross_entropy": round(float(-np.log(np.maximum(own, 1e-12)).mean()), 4),
        "valence_sign": round(float(np.mean([side.mean() for side in hits])), 4) if all(map(len, hits)) else None,
        "confusion": confusion.tolist(),
    }
