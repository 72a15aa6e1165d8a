"""Tune the demo's total variation: the weight of best mean PSNR, once per operator.

On 24 head phantoms of seed 2; training draws from seed 0 and the demo from seed 1.

    python benchmarks/tune_tv.py
"""

from __future__ import annotations

from gprior.commands.baselines import total_variation
from gprior.commands.demo import problems
from gprior.distances import scores
from gprior.training import phantoms

WEIGHTS = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1)


def main() -> None:
    """Print the mean PSNR in dB of every weight, and the best."""
    truth, _ = phantoms(range(24), 64, seed=2)
    for name, A in problems((1, 64, 64)).items():
        y = A(truth)
        found = {w: sum(scores(total_variation(y, A, w), truth)[0]) / len(truth) for w in WEIGHTS}
        print(name, " ".join(f"{w:g}:{psnr:.2f}" for w, psnr in found.items()))
        print(f"  best weight {max(found, key=lambda w: found[w]):g}")


if __name__ == "__main__":
    main()
