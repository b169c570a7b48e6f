"""Numbers and names as they are printed."""

from __future__ import annotations

import math

from unlearnbench.plan.spec import Metric


def interval(mean: float, low: float, high: float, metric: Metric) -> str:
    """``mean [low, high]``, or the mean alone where there is no interval."""
    text, *ends = (quantity(x, math.nan, metric) for x in ((mean,) if math.isnan(low) else (mean, low, high)))
    return f"{text} [{', '.join(ends)}]" if ends else text


def quantity(mean: float, spread: float, metric: Metric, sign: str = "") -> str:
    """``mean ± spread`` as printed: seconds and large numbers with 3 significant digits, others as the metric says."""
    scales = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"), (0.0, 1.0, ""))
    _, scale, suffix = next(entry for entry in scales if abs(mean) >= entry[0])
    mean, spread = mean / scale, spread / scale
    if metric.unit == "s" and 0 < abs(mean) < 5e-4 and not sign:
        return "<0.001"
    places = metric.digits
    if suffix or metric.unit == "s":
        places = min(3, max(0, 2 - math.floor(math.log10(abs(mean))))) if mean else 0
    mean = round(mean, places) + 0.0  # no minus sign before a zero
    text = f"{mean:{sign if mean else ''},.{places}f}{suffix}"
    return text if math.isnan(spread) or spread == 0 else f"{text} ± {spread:,.{places}f}{suffix}"


def clean(text: object, limit: int) -> str:
    """One printable line of at most ``limit`` characters. Names and error messages are other people's text."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
