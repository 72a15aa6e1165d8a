"""Choose the weights of the demo's total variation: ``python benchmarks/tune_tv.py``.

For each operator, the weight with the largest mean PSNR on 24 head phantoms of seed 2. Training
draws its phantoms from seed 0, and the demo from seed 1.
"""

from __future__ import annotations

import argparse

from gprior.commands.baselines import total_variation
from gprior.commands.demo import problems
from gprior.distances import scores
from gprior.training import phantoms

WEIGHTS = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1)


def main() -> None:
    """Print the mean PSNR in dB of every weight, and the best weight."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="check that the script works")
    quick = parser.parse_args().quick
    truth, _ = phantoms(range(2 if quick else 24), 64, seed=2)
    for name, A in problems((1, 64, 64)).items():
        y = A(truth)
        weights = WEIGHTS[::5] if quick else WEIGHTS
        psnr = {w: sum(scores(total_variation(y, A, w), truth)[0]) / len(truth) for w in weights}
        print(name, " ".join(f"{w:g}:{value:.2f}" for w, value in psnr.items()))
        print(f"  best weight {max(psnr, key=lambda w: psnr[w]):g}")


if __name__ == "__main__":
    main()
