"""What the README says was found stands in the committed tables, to the last digit that it gives."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from unlearnbench.plan.suites import make_plan

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
START = README.index("## What it found\n")
SAID = " ".join(README[START : README.index("## ", START + 3)].split())


def table(folder: str, name: str) -> pd.DataFrame:
    return pd.read_csv(RESULTS / folder / f"{name}.csv")


def average_gaps(folder: str, scenario: str) -> pd.DataFrame:
    """By method what is known of its average gap, of those that are neither oracle nor control."""
    roles = table(folder, "methods").set_index("method")["role"].to_dict()
    lines = table(folder, "gaps").query("metric == 'avg_gap' and scenario == @scenario").set_index("method")
    return lines[lines["distance"].notna() & (lines.index.map(roles) == "method")]


def beyond(folder: str, scenario: str) -> int:
    return int((average_gaps(folder, scenario)["p_beyond"] < 0.05).sum())


def full(metric: str) -> pd.DataFrame:
    """A metric by method in random-10 of the suite with banks of models."""
    return table("digits-full", "comparison").query("scenario == 'random-10' and metric == @metric").set_index("method")


def settings(folder: str) -> dict[str, str]:
    """Where the hyperparameters for class 8 come from, by method."""
    lines = table(folder, "methods").query("scenario == 'class-8'")
    return dict(zip(lines["method"], lines["settings"], strict=True))


def recognised(folder: str) -> set[str]:
    """The methods after which class 8 is known as often as not."""
    lines = table(folder, "comparison").query("scenario == 'class-8' and metric == 'fa' and mean > 50")
    return set(lines["method"])


def points(value: float, places: int) -> str:
    return f"{value:.{places}f}".replace("0.", ".", 1)


def interval(line: pd.Series) -> str:
    return f"{points(line['mean'], 3)} [{points(line['low'], 3)}, {points(line['high'], 3)}]"


def test_the_class() -> None:
    lines = average_gaps("digits-all", "class-8")
    floor, low, high = lines.iloc[0][["floor", "floor_low", "floor_high"]]
    assert f"other retrains lie {floor:.1f} points from the oracle on average [{low:.1f}, {high:.1f}]" in SAID
    published, tuned = beyond("digits-all", "class-8"), beyond("digits-tuned", "class-8")
    assert f"{published} of {len(lines)} methods are beyond that floor untuned" in SAID
    assert f"{tuned} after 12 trials of tuning each" in SAID
    assert {settings("digits-tuned")[method] for method in lines.index} == {"tuned (12 trials)", "default"}
    assert f"{beyond('digits-tuned-10', 'class-8')} with ten seeds" in SAID
    for folder in ("digits-all", "digits-tuned"):
        accuracy = table(folder, "comparison").query("scenario == 'class-8' and metric == 'fa'").set_index("method")
        assert (accuracy["mean"][["finetune", "l1_sparse", "gradient_ascent"]] > 50).all()


def test_what_was_published_elsewhere() -> None:
    methods = average_gaps("digits-all", "class-8").index
    own = [method for method in methods if settings("digits-all")[method].startswith("published for ")]
    assert f"Of the {len(own)} methods that run with an entry of their authors there" in SAID
    assert f"{len(recognised('digits-all') & set(own))} leave more than half of the class recognised" in SAID
    assert f"of all {len(methods)}, tuned, {len(recognised('digits-tuned') & set(methods))} do" in SAID


def test_samples_at_random() -> None:
    lines = average_gaps("digits-all", "random-10")
    far, tuned = (beyond(folder, "random-10") for folder in ("digits-all", "digits-tuned"))
    floor = f"{lines['floor'].iloc[0]:.1f}"
    assert f"{far} of {len(lines)} methods are beyond the floor of {floor} points untuned, {tuned} tuned" in SAID
    untouched = table("digits-all", "gaps").query(
        "metric == 'avg_gap' and scenario == 'random-10' and method == 'identity'"
    )
    assert (untouched["p_beyond"] < 0.05).all()
    assert f"so is the untouched original, at {untouched['distance'].iloc[0]:.1f} points" in SAID


def test_the_excess() -> None:
    on_forget, on_test = (points(full(name)["mean"]["camu"], 3) for name in ("ulira", "ulira_test"))
    plan = make_plan("digits-full")
    assert plan.unlearned_bank == plan.bank // 2 == 64
    assert "U-LiRA, with 64 models of each kind" in SAID
    assert f"with AUC {on_forget} on D_f, and with {on_test} on test samples" in SAID
    excess = full("ulira_excess")
    assert f"is {interval(excess.loc['camu'])}; random labels have {points(excess['mean']['random_label'], 3)}" in SAID
    assert f"the untouched original {interval(excess.loc['identity'])}" in SAID
    assert f"another retrain {interval(excess.loc['retrain_other_seed'])}" in SAID


def test_the_distance_as_models() -> None:
    klom = full("klom")["mean"]
    assert f"is {klom['camu']:.1f} for CaMU and {klom['random_label']:.1f} for random labels" in SAID
    assert f"two honest banks are {points(klom['retrain'], 2)} apart" in SAID
    assert f"the untouched original {points(klom['identity'], 2)} and random weights {klom['random_init']:.1f}" in SAID
    retain, test = (full(name)["mean"]["camu"] for name in ("klom_retain", "klom_test"))
    assert f"CaMU's models are far on D_r ({retain:.1f}) and on the test set ({test:.1f}), too" in SAID


def test_mnist() -> None:
    known = table("mnist", "comparison").query("scenario == 'class-0'").set_index(["metric", "method"])["mean"]
    assert known["fa", "camu"] == 0
    gaps = average_gaps("mnist", "class-0")
    near = f"is {points(gaps.loc['camu', 'distance'], 1)} points from the oracle"
    assert f"{near}, where other retrains are {points(gaps['floor'].iloc[0], 1)}" in SAID
    assert all(known["fa", method] > 99 for method in ("finetune", "gradient_ascent", "neggrad_plus"))
    assert f"{known['ra', 'random_label']:.0f}% of D_r is right" in SAID
    everything = table("mnist", "gaps").query("metric == 'avg_gap' and scenario == 'random-10'").set_index("method")
    untouched = everything.loc["identity", "distance"]
    assert (average_gaps("mnist", "random-10")["distance"] > untouched).all()
    assert f"the untouched original, at {points(untouched, 1)} points" in SAID


def test_the_costs() -> None:
    slower = []
    for scenario in ("class-8", "random-10"):
        lines = table("digits-tuned", "comparison").query("scenario == @scenario and metric == 'seconds'")
        seconds, methods = lines.set_index("method")["mean"], average_gaps("digits-tuned", scenario).index
        slower.append(f"{int((seconds[methods] > seconds['retrain']).sum())} of {len(methods)}")
    assert f"{slower[0]} tuned methods take longer than the retraining" in SAID
    assert f"in class 8, {slower[1]} in random-10" in SAID
