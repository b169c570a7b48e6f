"""Does U-LiRA tell a model that forgot nothing from an honest retrain? On digits, 10% forgotten at random.

    .venv/bin/python benchmarks/ulira_digits.py [RESULTS]

64 originals (identity) and 64 other retrains against 64 oracles, all trained here: some minutes on 2 cores. Prints the
AUC on D_f, the same on test samples, and the excess of the first over the second, which alone speaks of D_f, each with
its 95% interval over models. Exits with 1 unless the interval of the retrains' excess holds 0 and identity's lies
above 0.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: two processes of one thread beat one of two

from unlearnbench import run


def main() -> int:
    values = run("digits-ulira", results=sys.argv[1] if len(sys.argv) > 1 else "results").values
    for name in ("ulira", "ulira_test", "ulira_excess"):
        found = values[values["metric"] == name].set_index("method")[["value", "low", "high"]]
        for method, (value, low, high) in zip(found.index, found.to_numpy(), strict=True):
            print(f"{name:<13} {method:<20} {value:6.3f}  [{low:.3f}, {high:.3f}]")
    retrained, identity = found.loc["retrain_other_seed"], found.loc["identity"]
    honest, told = retrained["low"] <= 0 <= retrained["high"], identity["low"] > 0
    print(f"the retrains' excess may be 0: {honest}; identity's is above 0: {told}")
    return 0 if honest and told else 1


if __name__ == "__main__":
    sys.exit(main())
