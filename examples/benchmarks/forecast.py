"""How good the prediction of a longer training is: the loss that is foreseen, and the one that comes.

Digits and crops of two photographs are trained for some epochs and, anew, for twice as many. The table has
the share of the true gain that `predict_loss` foresaw: 100% is right, less is too cautious.

    python examples/benchmarks/forecast.py --out docs/benchmarks
"""

import argparse
import csv
from pathlib import Path

from photographs import crops
from run import describe_machine, machine
from sklearn.datasets import load_digits

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.inspection import predict_loss


def row(name, X, epochs, seed):
    """Return a line of the table."""
    settings = {"batch_size": min(256, len(X) // 2), "random_state": seed}
    short = predict_loss(SimCLRTransformer(max_epochs=epochs, **settings).fit(X).history_)
    longer = predict_loss(SimCLRTransformer(max_epochs=2 * epochs, **settings).fit(X).history_)
    gain = short.loss - longer.loss
    share = "" if gain <= 0 else f"{100 * (short.loss - short.predicted) / gain:.0f}"
    inside = "yes" if short.low <= longer.loss <= short.high else "no"
    return [
        name,
        epochs,
        seed,
        *(f"{x:.2f}" for x in (short.loss, short.predicted, longer.loss)),
        share,
        inside,
    ]


def main(arguments=None):
    """Train, predict, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, nargs="+", default=[10, 20, 40])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--n-images", type=int, default=1797, help="of a source (1797)")
    parser.add_argument("--out", type=Path, default=Path("forecast"), help="folder for the results")
    options = parser.parse_args(arguments)
    n = options.n_images
    sources = {"digits": load_digits().images[:n], "crops of photographs": crops(n, 32)}
    lines = [["images", "epochs", "seed", "loss", "predicted for twice as many", "loss after twice as many",
              "gain that was predicted (%)", "within the range"]]  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    for name, X in sources.items():
        for epochs in options.epochs:
            for seed in options.seeds:
                lines.append(row(name, X, epochs, seed))
                print(*lines[-1], sep=", ", flush=True)
                with (options.out / "forecast.csv").open("w", newline="") as file:
                    csv.writer(file, lineterminator="\n").writerows(lines)
    (options.out / "forecast_machine.txt").write_text(describe_machine(machine("cpu")) + "\n")


if __name__ == "__main__":
    main()
