"""The registry: lazy, suggesting, and not brought down by what others install."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from unlearnbench.plan import registry
from unlearnbench.plan.cells import Recipe
from unlearnbench.plan.registry import RegistryError, build, configure, listing, load, names
from unlearnbench.plan.spec import Configured, Positive
from unlearnbench.runs import engine

METHOD = '''
from dataclasses import dataclass
from unlearnbench.plan.spec import Access, Method

@dataclass(frozen=True)
class {name}(Method):
    """Does nothing.

    At length."""

    paper = "Nobody 2024"
    needs = Access.FORGET | Access.LABELS

    def unlearn(self, model, task):
        return model
'''


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """``install("package", source, "methods", name="Class")`` puts a module and its entry points on the path."""

    def write(package: str, source: str, kind: str = "methods", **points: str) -> None:
        (tmp_path / f"{package}.py").write_text(source)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = "\n".join(f"{name} = {package}:{target}" for name, target in points.items())
        (info / "entry_points.txt").write_text(f"[unlearnbench.{kind}]\n{lines}\n")
        registry.entries.cache_clear()

    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield write
    for module in set(sys.modules) - before:
        if (tmp_path / f"{module}.py").exists():
            del sys.modules[module]
    registry.entries.cache_clear()
    registry._source_tree.cache_clear()


# --- listing ---------------------------------------------------------------------------------------------------------


def test_listing_imports_neither_torch_nor_a_plugin() -> None:
    code = (
        "import sys; from unlearnbench import cli; cli.list_();"
        "heavy = {'torch', 'torchvision', 'pandas', 'sklearn', 'unlearnbench_methods.camu'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "camu" in done.stdout
    assert "Shen et al. 2024" in done.stdout


def test_what_a_listing_says_is_read_from_the_source() -> None:
    camu = next(item for item in listing("methods") if item.name == "camu")
    assert camu.package == "unlearnbench"
    assert camu.needs == ("FORGET", "RETAIN", "LABELS")
    assert camu.paper.startswith("Shen et al. 2024")
    assert camu.error == ""
    metric = next(item for item in listing("metrics") if item.name == "fa")
    assert metric.summary == "Accuracy on the forget set D_f."


@pytest.mark.parametrize("kind", registry.KINDS)
def test_everything_of_ours_can_be_imported(kind: str) -> None:
    assert names(kind)
    assert [item for item in listing(kind, check=True) if item.package == "unlearnbench" and item.error] == []


def test_what_a_listing_says_is_what_the_class_declares() -> None:
    for item in listing("methods"):
        cls = load("methods", item.name)
        assert item.paper == cls.paper
        assert set(item.needs) == {need.name for need in cls.needs}


# --- other people's plugins ------------------------------------------------------------------------------------------


def test_an_outside_plugin_stands_beside_ours(install: Callable[..., None]) -> None:
    install("nobody", METHOD.format(name="Nothing"), nothing="Nothing")
    item = next(item for item in listing("methods") if item.name == "nothing")
    assert (item.package, item.summary, item.paper) == ("nobody", "Does nothing.", "Nobody 2024")
    assert item.needs == ("FORGET", "LABELS")
    assert "nobody" not in sys.modules
    assert type(build("methods", "nothing", {})).__name__ == "Nothing"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import a_module_that_is_not_there", "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
        ("def Nothing(:", "SyntaxError"),
        ("", "AttributeError"),
        ("1 / 0", "ZeroDivisionError"),
        ("Nothing = 3", "must be a class derived from unlearnbench.plan.spec.Method"),
        (METHOD.format(name="Nothing").replace("unlearn(self", "forget(self"), "does not define unlearn"),
        (
            METHOD.format(name="Nothing").replace("paper =", "title ="),
            "must declare the class attributes paper and needs",
        ),
    ],
)
def test_a_broken_plugin_is_listed_as_broken_and_harms_nothing(
    install: Callable[..., None], source: str, reason: str
) -> None:
    install("nobody", source, nothing="Nothing")
    broken = {item.name: item.error for item in listing("methods", check=True) if item.error}
    assert broken.keys() == {"nothing"}
    assert reason in broken["nothing"]
    assert "nothing" in {item.name for item in listing("methods")}
    with pytest.raises(RegistryError, match="'nothing'"):
        load("methods", "nothing")
    assert build("methods", "camu", {}).epochs == 10


def test_a_duplicate_name_names_both_packages(install: Callable[..., None]) -> None:
    install("one", METHOD.format(name="Nothing"), nothing="Nothing")
    install("two", METHOD.format(name="Nothing"), nothing="Nothing")
    with pytest.raises(RegistryError, match=r"method 'nothing' is registered by '(one|two)' and '(one|two)': rename"):
        load("methods", "nothing")
    item = next(item for item in listing("methods") if item.name == "nothing")
    assert "'one'" in item.error
    assert "'two'" in item.error


def test_nobody_can_take_the_name_of_ours(install: Callable[..., None]) -> None:
    install("nobody", METHOD.format(name="CaMU"), camu="CaMU")
    with pytest.raises(RegistryError, match=r"'camu' .*'(nobody' and 'unlearnbench|unlearnbench' and 'nobody)'"):
        load("methods", "camu")
    assert load("methods", "finetune").__name__ == "FineTune"


def test_a_metric_must_be_a_metric(install: Callable[..., None]) -> None:
    install("nobody", "def fun(): pass", "metrics", fun="fun")
    with pytest.raises(RegistryError, match=r"metric 'fun' must be an unlearnbench\.Metric, not function"):
        load("metrics", "fun")


METRIC = """
from unlearnbench.plan.spec import Metric

FUN = Metric("{name}", "F", "", "{family}", "{better}", lambda evidence, context: 0.0, "None.", needs={needs})
"""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "fa"}, "metric 'fun' has the name 'fa': expected that of its entry point"),
        ({"family": "leekage"}, "metric 'fun' has the family 'leekage': expected one of utility, leakage, oracle-dist"),
        ({"better": "higher"}, "metric 'fun' is better 'higher': expected one of high, low, oracle"),
        ({"needs": {"orakel": 1}}, "metric 'fun' has needs {'orakel': 1}: expected numbers of oracle, original, untr"),
        ({"needs": ("oracle",)}, "metric 'fun' has needs ('oracle',): expected numbers of oracle, original, untrained"),
    ],
)
def test_a_metric_that_is_declared_wrongly_is_listed_as_broken_and_left_out(
    install: Callable[..., None], changes: dict[str, object], reason: str
) -> None:
    ours = engine.all_metrics()
    install(
        "nobody",
        METRIC.format(**{"name": "fun", "family": "leakage", "better": "low", "needs": {}, **changes}),
        "metrics",
        fun="FUN",
    )
    [broken] = [item for item in listing("metrics", check=True) if item.error]
    assert broken.name == "fun"
    assert broken.error.startswith(reason)
    found = engine.all_metrics()
    assert list(found) == list(ours)
    assert found["fa"] is ours["fa"]


def test_a_metric_of_others_stands_with_its_family(install: Callable[..., None]) -> None:
    install(
        "nobody", METRIC.format(name="fun", family="utility", better="low", needs={"oracle": 1}), "metrics", fun="FUN"
    )
    found = engine.all_metrics()
    assert list(found).index("fun") < list(found).index("rmia")


# --- names and parameters --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("methods", "camo", "unknown method 'camo'; did you mean 'camu'? (unlearnbench list methods)"),
        ("datasets", "cifar-10", "unknown dataset 'cifar-10'; did you mean 'cifar10'? (unlearnbench list datasets)"),
        ("metrics", "zzz", "unknown metric 'zzz'. (unlearnbench list metrics)"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(kind: str, name: str, says: str) -> None:
    with pytest.raises(RegistryError) as error:
        load(kind, name)
    assert str(error.value) == says


@dataclass(frozen=True)
class Thing(Configured):
    rate: Positive = 1.0
    steps: int = 1
    on: bool = False
    sizes: tuple[int, ...] = ()


def test_whole_numbers_become_floats_and_arrays_tuples() -> None:
    thing = configure(Thing, {"rate": 2, "sizes": [1, 2]}, "thing")
    assert thing == Thing(rate=2.0, sizes=(1, 2))
    assert isinstance(thing.rate, float)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"rte": 1.0}, "thing has no parameter 'rte'; did you mean 'rate'?"),
        ({"colour": 1}, "thing has no parameter 'colour'; it has rate, steps, on, sizes"),
        ({"rate": 0}, "thing: rate should be greater than 0, not 0"),
        ({"rate": "1"}, "thing: rate should be a valid number, not '1'"),
        ({"rate": True}, "thing: rate should be a valid number, not True"),
        ({"steps": 1.5}, "thing: steps should be a valid integer, not 1.5"),
        ({"steps": True}, "thing: steps should be a valid integer, not True"),
        ({"on": 1}, "thing: on should be a valid boolean, not 1"),
        ({"sizes": [1, "a"]}, "thing: sizes.1 should be a valid integer, not 'a'"),
        ({"rate": float("nan")}, "thing: rate"),
        ({"rate": float("inf")}, "thing: rate"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_was_expected(params: dict[str, object], says: str) -> None:
    with pytest.raises(RegistryError) as error:
        configure(Thing, params, "thing")
    assert str(error.value).startswith(says)


def test_every_wrong_parameter_is_named() -> None:
    with pytest.raises(RegistryError, match=r"rate .*; .*steps "):
        configure(Thing, {"rate": -1, "steps": "many"}, "thing")


def test_build_completes_with_defaults() -> None:
    camu = build("methods", "camu", {"lr_ce": 1})
    assert (camu.lr_ce, camu.lr_kl) == (1.0, 4e-4)
    assert build("scenarios", "class", {"classes": [3, 1, 3]}).classes == (1, 3)
    assert configure(Recipe, {}, "recipe") == Recipe()
