"""Cost of a method: on this machine, and counted without a clock."""

from __future__ import annotations

from unlearnbench.measure.metrics import Measure, with_oracle
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Empty, Metric


def spent(name: str, unit: float = 1) -> Measure:
    """A cost of the row, divided by ``unit``."""

    def measure(evidence: Evidence, _: Context) -> float | Empty:
        value = evidence.cost.get(name)
        return Empty("not_on_device" if name in evidence.cost else "not_measured") if value is None else value / unit

    return measure


def share(name: str) -> Measure:
    """A cost in percent of the oracle's."""

    def measure(evidence: Evidence, context: Context) -> float | Empty:
        pair = with_oracle(name, evidence, context)
        if isinstance(pair, Empty):
            return pair
        return 100 * pair[0] / pair[1] if pair[1] else Empty("oracle_empty", "its own is 0")

    return measure


def relative_time_efficiency(evidence: Evidence, context: Context) -> float | Empty:
    """Seconds of the oracle's training over seconds of the method; empty where that drew no sample, made no gradient
    and ran no network."""
    if evidence.cost.get("samples") == 0 and not any(evidence.cost.get(name) for name in ("gradients", "flops")):
        return Empty("zero_cost")
    pair = with_oracle("seconds", evidence, context)
    if isinstance(pair, Empty):
        return pair
    return pair[1] / pair[0] if pair[0] else Empty("zero_cost")


def _share(name: str, label: str, doc: str, *, per_machine: bool = False) -> Metric:
    return Metric(
        f"{name}_share", f"{label} share", "%", "cost", "low", share(name), needs={"oracle": 1}, reads=(name,),
        per_machine=per_machine, digits=1, doc=f"{doc}, in percent of the oracle's.",
    )  # fmt: skip


SECONDS = Metric(
    "seconds", "Time", "s", "cost", "low", spent("seconds"), per_machine=True,
    doc="Wall time of the method alone, device synchronised, no evaluation inside.",
)  # fmt: skip
RTE = Metric(
    "rte", "RTE", "x", "cost", "high", relative_time_efficiency, needs={"oracle": 1}, reads=("seconds",),
    per_machine=True, digits=1, version=2,
    doc="Relative time efficiency: the oracle's training time divided by the method's time.",
)  # fmt: skip
PEAK_MEMORY = Metric(
    "peak_memory", "Peak memory", "MB", "cost", "low", spent("peak_memory", unit=1e6), per_machine=True,
    digits=1, doc="Most memory held during the method above what was held before it, in megabytes of 10^6 bytes.",
)  # fmt: skip
SAMPLES = Metric(
    "samples", "Samples", "samples", "cost", "low", spent("samples"), digits=0,
    doc="Samples that the method drew from its data, repetitions counted.",
)  # fmt: skip
GRADIENTS = Metric(
    "gradients", "Gradients", "samples", "cost", "low", spent("gradients"), digits=0,
    doc="Per-sample gradient evaluations of the method: samples in its backward passes.",
)  # fmt: skip
FLOPS = Metric(
    "flops", "FLOPs", "GFLOP", "cost", "low", spent("flops", unit=1e9), digits=2,
    doc="Floating-point operations of the method's forward and backward passes, 2 a multiply-add, in 10^9.",
)  # fmt: skip
PEAK_MEMORY_SHARE = _share("peak_memory", "Memory", "Peak memory", per_machine=True)
SAMPLES_SHARE = _share("samples", "Samples", "Samples drawn")
GRADIENTS_SHARE = _share("gradients", "Gradients", "Gradient evaluations")
FLOPS_SHARE = _share("flops", "FLOPs", "Floating-point operations")
