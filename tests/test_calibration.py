"""What the legend claims of its marks is what the simulations print that stand in the repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from unlearnbench_benchmarks import calibration
from unlearnbench_reports.legend import LEGEND

from unlearnbench.judge.inference import beyond

PRINTED = (Path(__file__).parents[1] / "benchmarks/results/calibration.txt").read_text(encoding="utf-8")
WORDS = " ".join(LEGEND)


def rows(start: str) -> list[list[str]]:
    """The cells of the table whose title starts so, its head first."""
    section = PRINTED[PRINTED.index(start) :]
    lines = section[section.index("\n\n") :].strip("\n").split("\n\n")[0].splitlines()
    return [re.split(r"\s{2,}", line.strip()) for line in lines]


def column(start: str, name: str, **where: str) -> list[float]:
    head, *lines = rows(start)
    kept = [line for line in lines if all(line[head.index(key)] == value for key, value in where.items())]
    return [float(line[head.index(name)]) for line in kept]


def test_the_level_of_equivalence_is_what_the_legend_says() -> None:
    assert max(column("≡, two", "at the tolerance", gaps="normal")) < 0.06
    skewed = max(column("≡, two", "at the tolerance"))
    assert f"{round(100 * skewed)}% of exponential ones" in WORDS
    assert max(column("≡ where", "marked")) > 0.5
    assert "most that are 0 but for a rare failed run" in WORDS


def test_an_honest_retrain_is_marked_beyond_the_noise_floor_in_one_of_twenty() -> None:
    assert max(column("†, permutation", "honest")) < 0.055
    assert min(column("†, permutation", "bias 3")) > 0.5
    assert "a permutation test that marks 5% of honest retrains" in WORDS
    assert min(column("† for", "marked")) > 0.01
    assert max(column("† for", "marked")) < 0.125
    assert "in 1 to 12% of cases" in " ".join(str(beyond.__doc__).split())


def test_the_readme_says_how_much_the_test_finds() -> None:
    found = [column("†, permutation", bias, runs="5", **{"retrains a run": "5"}) for bias in ("bias 1", "bias 3")]
    small, large = (f"{round(100 * min(shares))} to {round(100 * max(shares))}%" for shares in found)
    readme = " ".join((Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8").split())
    assert f"one standard deviation of retrains in {small} of cases, of three in {large}." in readme


def test_the_interval_of_the_noise_floor_covers_what_the_legend_says() -> None:
    covers = column("The noise floor's", "covers")
    assert f"(in simulation it covers {round(100 * min(covers))} to {round(100 * max(covers))}%)" in WORDS


def test_intervals_over_models_hold_the_mean() -> None:
    assert min(column("Other intervals", "covers")) >= 0.93


def test_broken_models_lie_above_the_null_of_klom_and_a_mere_shift_leaves_no_excess() -> None:
    for models in ("1 broken", "4 broken"):
        head, *lines = rows("KLoM, 64")
        line = next(line for line in lines if line[0] == models)
        assert float(line[head.index("above")]) == 1
    head, *lines = rows("U-LiRA on")
    for line in lines:
        if line[head.index("kept on D_f")] == "0.000":
            assert abs(float(line[head.index("excess")])) < 0.005
            assert float(line[-1]) >= 0.93


@pytest.mark.parametrize(
    "simulation",
    [
        calibration.equivalence, calibration.rare_failures, calibration.noise_floor, calibration.other_shapes,
        calibration.floor_interval, calibration.likelihood_ratios, calibration.intervals_of_models,
        calibration.broken_models,
    ],
)  # fmt: skip
def test_a_simulation_prints_the_table_that_is_stored(simulation, capsys: pytest.CaptureFixture[str]) -> None:
    """With fewer draws: titles, heads and cases are those of the stored ones."""
    simulation(8)
    title = capsys.readouterr().out.strip().splitlines()[0]
    assert title in PRINTED
