"""What the marks, intervals and metrics of the tables are worth, in simulation: levels, power, coverage.

Everything is drawn from seeds, so that the same call prints the same numbers; results/calibration.txt has them:

    .venv/bin/python benchmarks/calibration.py | tee benchmarks/results/calibration.txt
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np

from unlearnbench.judge.inference import ALPHA, beyond, equivalent
from unlearnbench.judge.stats import summarise
from unlearnbench.measure.distributions import equal_bins_kl, forgetting_quality, klom
from unlearnbench.measure.likelihood import Attack, excess, ruli, ulira
from unlearnbench.measure.resampling import estimate, left_out
from unlearnbench.plan.spec import Estimate, Tolerance

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def normal(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=size)


def skewed(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Exponential, with mean 0 and standard deviation 1."""
    return rng.exponential(size=size) - 1


LAWS: dict[str, Draw] = {"normal": normal, "skewed": skewed}


def share(times: int, seed: int, once: Callable[[np.random.Generator], bool]) -> float:
    """How often ``once`` is true, of ``times`` draws."""
    rng = np.random.default_rng(seed)
    return float(np.mean([once(rng) for _ in range(times)]))


def table(title: str, head: list[str], lines: list[list[object]]) -> None:
    cells = [head, *([f"{x:.3f}" if isinstance(x, float) else str(x) for x in line] for line in lines)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    print(f"\n{title}\n")
    for row in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


# --- the marks -------------------------------------------------------------------------------------------------------


def equivalence(times: int = 4000) -> None:
    """The mark ≡ where the mean gap is at the tolerance (its level), and where it is 0 (its power)."""
    laws: dict[str, Draw] = {"normal": normal, "skewed away": skewed, "skewed back": lambda *given: -skewed(*given)}
    lines: list[list[object]] = []
    for runs, (name, law), deviation in product((5, 10), laws.items(), (0.3, 1.0)):
        marked = (partial(_equivalent, law, runs, deviation, mean) for mean in (1.0, 0.0))
        lines.append([runs, name, deviation, *(share(times, seed, once) for seed, once in enumerate(marked, 1))])
    table(
        "≡, two one-sided t tests at 5%: how often a mean gap at the tolerance is marked, and one of 0.\n"
        "Gaps are normal, or exponential with their tail away from 0 or back towards it.",
        ["runs", "gaps", "sd / tolerance", "at the tolerance", "at 0"], lines,
    )  # fmt: skip


def rare_failures(times: int = 4000) -> None:
    """The mark ≡ where most runs have no gap, and a failed one now and then has so large a one that the mean gap is at
    the tolerance."""
    lines: list[list[object]] = [
        [runs, failed, share(times, 8, partial(_equivalent_but_for, failed, runs))]
        for runs, failed in product((5, 10), (0.3, 0.2, 0.1, 0.05))
    ]
    table(
        "≡ where gaps are 0 but for a share of failed runs, the mean gap at the tolerance: how often it is marked.",
        ["runs", "failed", "marked"], lines,
    )  # fmt: skip


def _equivalent_but_for(failed: float, runs: int, rng: np.random.Generator) -> bool:
    gaps = (rng.random(runs) < failed) / failed + 0.01 * rng.normal(size=runs)
    return equivalent(gaps, np.zeros(runs), Tolerance(1.0)) < ALPHA


def _equivalent(law: Draw, runs: int, deviation: float, mean: float, rng: np.random.Generator) -> bool:
    return equivalent(mean + deviation * law(rng, (runs,)), np.zeros(runs), Tolerance(1.0)) < ALPHA


def noise_floor(times: int = 2000) -> None:
    """The mark † for one more honest retrain (its level), and for methods with a bias (its power)."""
    lines: list[list[object]] = []
    for runs, (name, law), retrains in product((5, 10), LAWS.items(), (1, 5, 50)):
        level = share(times, 3, partial(_beyond, law, runs, retrains, 0))
        power = [share(times // 4, 3, partial(_beyond, law, runs, retrains, bias)) for bias in (1, 2, 3)]
        lines.append([runs, name, retrains, level, *power])
    table(
        "†, permutation test at 5%: how often a model is marked that is one more honest retrain, or one with a bias\n"
        "of 1, 2 and 3 standard deviations of retrains. 1 retrain a run estimates the floor, 50 all but know it.",
        ["runs", "law", "retrains a run", "honest", "bias 1", "bias 2", "bias 3"], lines,
    )  # fmt: skip


def _beyond(law: Draw, runs: int, retrains: int, bias: float, rng: np.random.Generator) -> bool:
    """Of a model with no more than the noise of an honest retrain, and a bias."""
    oracle, honest = _distances(law, runs, retrains, rng)
    return beyond(np.abs(bias + law(rng, (runs,)) - oracle).tolist(), honest.tolist()) < ALPHA


def _distances(law: Draw, runs: int, retrains: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Oracles ``[runs]``, and how far honest retrains lie from that of their run, ``[runs, retrains]``."""
    oracle = law(rng, (runs, 1))
    return oracle[:, 0], np.abs(law(rng, (runs, retrains)) - oracle)


def other_shapes(times: int = 2000) -> None:
    """What † makes of methods that are no honest retrains, and yet have the same mean distance."""
    mean = 2 / np.pi**0.5  # of the distance of two normal values
    shapes: dict[str, Draw] = {
        "always the same": lambda rng, size: np.full(size, mean),
        "exponential": lambda rng, size: mean * rng.exponential(size=size),
        "mostly 0, or 5 times it": lambda rng, size: 5 * mean * (rng.random(size) < 0.2),
    }
    lines: list[list[object]] = [
        [runs, name, share(times, 4, partial(_same_mean, law, runs))]
        for runs, (name, law) in product((5, 10), shapes.items())
    ]
    table(
        "† for distances of another law with the same mean: it tests whether the method is one more honest retrain.",
        ["runs", "distances", "marked"], lines,
    )  # fmt: skip


def _same_mean(law: Draw, runs: int, rng: np.random.Generator) -> bool:
    honest = _distances(normal, runs, 5, rng)[1]
    return beyond(law(rng, (runs,)).tolist(), honest.tolist()) < ALPHA


def floor_interval(times: int = 4000) -> None:
    """Coverage of the noise floor's interval."""
    truth = {"normal": 2 / np.pi**0.5, "skewed": 1.0}  # mean |a - b| of two independent values
    lines: list[list[object]] = [
        [runs, name, retrains, share(times, 5, partial(_holds, LAWS[name], runs, retrains, truth[name]))]
        for runs, name, retrains in product((5, 10), LAWS, (1, 5))
    ]
    table("The noise floor's 95% interval: how often it covers.", ["runs", "law", "retrains a run", "covers"], lines)


def _holds(law: Draw, runs: int, retrains: int, truth: float, rng: np.random.Generator) -> bool:
    found = summarise(_distances(law, runs, retrains, rng)[1].mean(axis=1))
    return found.low <= truth <= found.high


# --- metrics of many models ------------------------------------------------------------------------------------------


def confidences(rng: np.random.Generator, models: int, difficulty: np.ndarray) -> np.ndarray:
    """Margins of models ``[models, n]`` on samples of a difficulty ``[n]``: models differ as a whole and sample by
    sample."""
    return difficulty + 0.5 * rng.normal(size=(models, 1)) + rng.normal(size=(models, len(difficulty)))


def likelihood_ratios(times: int = 200) -> None:
    """U-LiRA and its excess where nothing was done, where a method moves all samples, and where D_f stands out."""
    lines: list[list[object]] = []
    for models in (8, 16, 64):
        for shift, leak in ((0.0, 0.0), (1.5, 0.0), (4.0, 0.0), (0.0, 0.5)):
            rng = np.random.default_rng(6)
            areas: list[Estimate] = []
            found: list[Estimate] = []
            for seed in range(times // (2 if models == 64 else 1)):
                difficulty = 3 * rng.normal(size=80)
                u, o = confidences(rng, models, difficulty) - shift, confidences(rng, models, difficulty)
                u[:, :40] += leak
                forget, test = ulira(u[:, :40], o[:, :40], seed), ulira(u[:, 40:], o[:, 40:], seed)
                assert isinstance(forget, Attack)
                assert isinstance(test, Attack)
                areas.append(forget.auc)
                found.append(excess(forget, test))
            area, more = mean(areas), mean(found)
            covered = covers(areas, area if shift or leak else 0.5), covers(found, more if leak else 0.0)
            lines.append([models, shift, leak, area, covered[0], more, covered[1]])
    table(
        "U-LiRA on 40 forget samples with N models a side: its mean AUC, and how often its 95% interval holds .5 or,\n"
        "where something was done, that mean. The excess over 40 unseen samples, which are shifted as well, and how\n"
        "often its interval holds 0 or, where D_f keeps some of its confidence, the mean.",
        ["N", "shift of all", "kept on D_f", "AUC", "covers", "excess", "covers"], lines,
    )  # fmt: skip


def mean(estimates: list[Estimate]) -> float:
    return float(np.mean([e.value for e in estimates]))


def intervals_of_models(times: int = 100) -> None:
    """Coverage of the other intervals over models: where nothing was done, and where all margins are shifted."""
    cases: dict[str, tuple[int, Callable[[np.ndarray, np.ndarray, int], object]]] = {
        "U-LiRA accuracy": (16, lambda u, o, seed: _attack(u, o, seed).accuracy),
        "U-LiRA TPR@1%": (64, lambda u, o, seed: _attack(u, o, seed).tpr[0.01]),
        "RULI": (16, ruli),
        "KLoM": (64, lambda u, o, _: _jackknifed(klom, u, o)),
        "KLoM, equal bins": (64, lambda u, o, _: _jackknifed(equal_bins_kl, u, o)),
        "KLoM, equal bins, p95": (64, lambda u, o, _: _jackknifed(equal_bins_kl, u, o, lambda x: np.percentile(x, 95))),
        "forgetting quality": (16, lambda u, o, _: _jackknifed(forgetting_quality, u, o)),
    }
    lines: list[list[object]] = []
    for (name, (models, measure)), shift in product(cases.items(), (0.0, 0.5)):
        rng = np.random.default_rng(9)
        found = []
        for seed in range(times):
            difficulty = 3 * rng.normal(size=40)
            u, o = confidences(rng, models, difficulty) - shift, confidences(rng, models, difficulty)
            value = measure(u, o, seed)
            assert isinstance(value, Estimate)
            found.append(value)
        lines.append([name, models, shift, mean(found), covers(found, mean(found))])
    table(
        "Other intervals over N models a side, on 40 samples: the mean value, and how often the 95% interval holds it.",
        ["metric", "N", "shift of all", "mean", "covers"], lines,
    )  # fmt: skip


def _attack(u: np.ndarray, o: np.ndarray, seed: int) -> Attack:
    found = ulira(u, o, seed)
    assert isinstance(found, Attack)
    return found


def _jackknifed(
    measure: Callable[..., object], u: np.ndarray, o: np.ndarray, summary: Callable[..., object] = np.mean
) -> Estimate:
    return estimate(left_out(lambda *sides: np.asarray(summary(measure(*sides))), u, o), low=0)


def covers(estimates: list[Estimate], truth: float) -> float:
    return float(np.mean([e.low <= truth <= e.high for e in estimates]))


def broken_models(times: int = 60) -> None:
    """KLoM where some of the 64 unlearned models are useless: above the honest null, or rewarded?"""
    measures = {"klom": klom, "klom_ou": lambda u, o: equal_bins_kl(o, u), "klom_uo": equal_bins_kl}
    found: dict[str, list[list[float]]] = {}
    rng = np.random.default_rng(7)
    for _ in range(times):
        oracles, others, unlearned = rng.normal(size=(3, 64, 150))
        banks = {"other oracles": others, "honest": unlearned, "shifted by half an sd": unlearned - 0.5}
        for count in (1, 4):
            banks[f"{count} broken"] = np.concatenate([np.full((count, 150), -100.0), unlearned[count:]])
        for name, bank in banks.items():
            found.setdefault(name, []).append([float(fn(bank, oracles).mean()) for fn in measures.values()])
    null = np.array(found.pop("other oracles"))
    lines: list[list[object]] = []
    for name, values in found.items():
        above = np.greater(values, null).mean(axis=0)
        lines.append([name, *(float(x) for pair in zip(np.mean(values, axis=0), above, strict=True) for x in pair)])
    table(
        "KLoM, 64 unlearned models against 64 oracles: the mean, and how often it is above that of 64 other oracles.",
        ["models", *(head for name in measures for head in (name, "above"))], lines,
    )  # fmt: skip


if __name__ == "__main__":
    equivalence()
    rare_failures()
    noise_floor()
    other_shapes()
    floor_interval()
    likelihood_ratios()
    intervals_of_models()
    broken_models()
