"""Evidence to numbers: one record per metric, each registered by an entry point of its own; a module for each family.

Sets: D_f forget, D_r retain. "points" are differences of percentages. Accuracies, losses and attacks are of the model
in evaluation mode. A metric whose ``better`` is ``"oracle"`` is best where it is closest to the retrained model.
"""

from __future__ import annotations

from collections.abc import Callable

from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Empty, Estimate

Measure = Callable[[Evidence, Context], float | Estimate | Empty]


def with_oracle(name: str, evidence: Evidence, context: Context) -> tuple[float, float] | Empty:
    """A metric of the row and of its oracle, both scored before, or why one of them has none."""
    assert context.oracle is not None
    own, its = evidence.scores.get(name, Empty("not_measured")), context.oracle.scores.get(name, Empty("oracle_empty"))
    if isinstance(own, Empty):
        return own
    return Empty("oracle_empty", name) if isinstance(its, Empty) else (own, its)
