"""Does the linear form of the colour operations cost accuracy against the faithful one?

Both are trained for the same number of epochs with the same seeds; a logistic regression on the
representations of the training images is scored on the test images. Usage, with folders that have a
sub-folder for each class:

    python examples/benchmarks/colour_accuracy.py --train cifar10/train --test cifar10/test
"""

import argparse
import json

import numpy as np
from photographs import from_folder, probe

from sklearn_simclr import Augmentation, SimCLRTransformer


def main():
    """Train with both colour modes, and print accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--n-train", type=int, default=10_000)
    parser.add_argument("--n-test", type=int, default=5_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    X, y = from_folder(args.train, args.n_train)
    X_test, y_test = from_folder(args.test, args.n_test)
    scores = {"linear": [], "torchvision": []}
    for seed in range(args.seeds):
        for mode, results in scores.items():
            simclr = SimCLRTransformer(
                augmentation=Augmentation(implementation=mode), max_epochs=args.epochs, random_state=seed
            )
            results.append(probe(simclr.fit_transform(X), y, simclr.transform(X_test), y_test))
            print(json.dumps({"seed": seed, "implementation": mode, "accuracy": results[-1]}), flush=True)
    difference = np.subtract(scores["linear"], scores["torchvision"])
    for mode, results in scores.items():
        print(f"{mode:>10}: {np.mean(results):.4f} +- {np.std(results, ddof=1):.4f}")
    print(f"linear - torchvision: {difference.mean():+.4f} +- {difference.std(ddof=1):.4f}")


if __name__ == "__main__":
    main()
