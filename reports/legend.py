"""What the marks of the tables mean."""

from __future__ import annotations

from unlearnbench.judge.results import Results
from unlearnbench.plan.cards import tolerance_in_words

FAMILIES = {
    "utility": "Accuracy",
    "leakage": "Attacks",
    "oracle-distance": "Distance to the oracle",
    "relearning": "Relearning",
    "cost": "Cost",
}
LEGEND = (
    "≈ nearest the oracle is best, ↓ lowest, ↑ highest. The best mean is {best}; where nearest the oracle is "
    "best, it is the smallest mean distance, taken run by run. The order is not tested here (tests.csv has tests "
    "where there are seeds enough). The oracle and the controls do not compete.",
    "± is the standard deviation over seeds, in the gaps half the 95% t interval; without ± all seeds agree, or "
    "there is one. [ ] is a value's own interval, nominally 95%. > marks a lower bound.",
    "≡ marks a mean gap within the tolerance that its metric declares ({tolerances}), by two one-sided t tests. "
    "They pass 5% of normal gaps at the tolerance, 15% of exponential ones, and most that are 0 but for a rare "
    "failed run, which few runs do not show.",
    "The noise floor is the mean distance of other honest retrains to the oracle of the same run, with its 95% t "
    "interval (in simulation it covers 88 to 93%).",
    "† marks what does not pass for one more honest retrain: its mean distance is too large, by a permutation "
    "test that marks 5% of honest retrains.",
    "Each mark is a test of its own; the simulations are in the repository, benchmarks/results/calibration.txt.",
    "Where models of a bank are compared, the oracle's line is the null: one part of the bank against another.",
)


def legend(results: Results, best: str) -> list[str]:
    """What the marks of the tables mean, in paragraphs; ``best`` says how the best method is marked."""
    declared = {
        f"{FAMILIES[metric.family].lower()} {tolerance_in_words(metric)}": None
        for metric in results.metrics.values()
        if metric.tolerance
    }
    return [part.format(best=best, tolerances=", ".join(declared) or "here none does") for part in LEGEND]
