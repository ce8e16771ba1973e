"""How sure a preference model is, against how often it is right."""

import math
from collections.abc import Sequence
from typing import Any


def calibration(differences: Sequence[float], bins: int = 5) -> dict[str, Any]:
    """Compare stated and actual certainty: are pairs called at 80 % right 8 times in 10?

    `differences` are raw r_chosen - r_rejected. The confidence of a pair is sigmoid(|difference|)
    in [0.5, 1], in `bins` equal bins. Returns `ece`, the expected calibration error
    sum_b n_b/N |accuracy_b - confidence_b| (Guo et al. 2017, arXiv 1706.04599), and the
    reliability table `calibration`: low, high, pairs, confidence, accuracy of each filled bin.
    """
    filled: dict[int, list[tuple[float, float]]] = {}
    for difference in differences:
        confidence = 1 / (1 + math.exp(-abs(difference)))
        right = 1.0 if difference > 0 else 0.5 if difference == 0 else 0.0
        filled.setdefault(min(int((confidence - 0.5) * 2 * bins), bins - 1), []).append(
            (confidence, right)
        )
    table = [
        {
            "low": 0.5 + b * 0.5 / bins,
            "high": 0.5 + (b + 1) * 0.5 / bins,
            "pairs": len(seen),
            "confidence": sum(c for c, _ in seen) / len(seen),
            "accuracy": sum(r for _, r in seen) / len(seen),
        }
        for b, seen in sorted(filled.items())
    ]
    gaps = (row["pairs"] * abs(row["accuracy"] - row["confidence"]) for row in table)
    return {"ece": sum(gaps) / max(len(differences), 1), "calibration": table}
