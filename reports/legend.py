"""What the marks of the tables mean."""

from __future__ import annotations

from unlearnbench.judge.results import Results

from .statistics import tolerance_in_words

FAMILIES = {
    "utility": "Accuracy",
    "leakage": "Attacks",
    "oracle-distance": "Distance to the oracle",
    "relearning": "Relearning",
    "cost": "Cost",
}
LEGEND = (
    "≈ nearest the oracle is best, ↓ lowest, ↑ highest. The best mean is {best}; of metrics that are best near the "
    "oracle it is the smallest mean distance, taken run by run. No test stands behind that order (tests.csv has "
    "those). The oracle and the controls do not compete. ± is the standard deviation over seeds, in the gaps half the "
    "95% t interval; without ± all seeds agree, or there is one; [ ] is a value's own 95% interval. > marks a lower "
    "bound. ≡ marks a mean gap within the tolerance that its metric declares ({tolerances}): two one-sided t tests, "
    "5% of normal gaps at the tolerance, up to 15% of strongly skewed ones. The noise floor is the mean distance of "
    "other honest retrains to the oracle of the same run, with its 95% t interval (in simulation it covers 88 to "
    "93%); † marks a method that lies farther away than they do (permutation test, 5%). Each mark is a test of its "
    "own; the simulations are in the repository, benchmarks/results/calibration.txt. Where models of a bank are "
    "compared, the oracle's line is the null: one part of the bank against another."
)


def legend(results: Results, best: str) -> str:
    """What the marks of the tables mean; ``best`` says how the best method is marked."""
    declared = {
        f"{FAMILIES[metric.family].lower()} {tolerance_in_words(metric)}": None
        for metric in results.metrics.values()
        if metric.tolerance
    }
    return LEGEND.format(best=best, tolerances=", ".join(declared) or "here none does")
