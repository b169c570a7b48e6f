"""Does U-LiRA tell a model that forgot nothing from an honest retrain? On digits, 10% forgotten at random.

    .venv/bin/python benchmarks/ulira_digits.py [RESULTS]

64 originals (identity) and 64 other retrains against 64 oracles, all trained here: some minutes on 2 cores. Prints AUC
and 95% interval (bootstrap over models) of each; exits with 1 unless the retrains lie within .05 of .5 and identity's
interval lies above theirs.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: two processes of one thread beat one of two

from unlearnbench import run


def main() -> int:
    values = run("digits-ulira", results=sys.argv[1] if len(sys.argv) > 1 else "results").values
    found = values[values["metric"] == "ulira"].set_index("method")[["value", "low", "high"]]
    for method, (value, low, high) in zip(found.index, found.to_numpy(), strict=True):
        print(f"{method:<20} AUC {value:.3f}  [{low:.3f}, {high:.3f}]")
    retrained, identity = found.loc["retrain_other_seed"], found.loc["identity"]
    honest = abs(retrained["value"] - 0.5) <= 0.05
    told = identity["low"] > retrained["high"]
    print(f"retrains within .05 of .5: {honest}; identity's interval above theirs: {told}")
    return 0 if honest and told else 1


if __name__ == "__main__":
    sys.exit(main())
