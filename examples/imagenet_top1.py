"""
ImageNet top-1 of published SimCLR weights
==========================================

The authors of SimCLR report a top-1 accuracy of 69.1, 74.2 and 76.6% for the linear classifiers in their
checkpoints of ResNet-50 (1x, 2x, 4x). This script reads such checkpoints, classifies the validation images,
and prints the accuracy and its standard error next to the published accuracy. You need the checkpoints and
the images. The folder of images has one sub-folder per class, named by its WordNet number as in ImageNet::

    python imagenet_top1.py --folder imagenet/validation --weights ResNet50_1x ResNet50_2x ResNet50_4x \\
        --published 69.1 74.2 76.6

Any weights with a classifier will do, such as ``torchvision:ResNet50_Weights.IMAGENET1K_V1`` (76.1%).
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch

from sklearn_simclr import SimCLRTransformer, load_image_paths, load_pretrained

# Images per call of transform.
CHUNK = 1024


def top1(weights, paths, y):
    """Return the share of images whose class the classifier of the weights finds."""
    pretrained = load_pretrained(weights)
    if pretrained.classifier is None:
        raise SystemExit(f"{weights} has no classifier. Pass a checkpoint that contains one.")
    n_classes = pretrained.classifier.out_features
    if len(np.unique(y)) != n_classes:
        raise SystemExit(f"{weights} knows {n_classes} classes, the folder has {len(np.unique(y))}.")
    # The classifier reads h, or a layer of the projection head.
    layer = pretrained.classifier_layer or "encoder"
    simclr = SimCLRTransformer(weights=weights, max_epochs=0, mirror=False, output=layer).fit(paths[:2])
    right = 0
    for start in range(0, len(paths), CHUNK):
        h = torch.from_numpy(simclr.transform(paths[start : start + CHUNK]))
        with torch.inference_mode():
            right += int((pretrained.classifier(h).argmax(1).numpy() == y[start : start + CHUNK]).sum())
    return right / len(paths)


def main(arguments=None):
    """Classify, print, and write a table."""
    parser = argparse.ArgumentParser(description="Top-1 accuracy of published weights.")
    parser.add_argument("--folder", type=Path, required=True, help="images, one sub-folder per class")
    parser.add_argument(
        "--weights", nargs="+", required=True, help="names or files that load_pretrained reads"
    )
    parser.add_argument(
        "--published", type=float, nargs="+", help="accuracy in percent, one number for each of --weights"
    )
    parser.add_argument("--n-images", type=int, help="number of images, drawn at random (all)")
    parser.add_argument("--output", type=Path, default=Path("imagenet_top1.csv"), help="table")
    options = parser.parse_args(arguments)
    if options.published is not None and len(options.published) != len(options.weights):
        parser.error("--published needs one number for each of --weights")
    found = load_image_paths(options.folder)
    # Classes are numbered in the order of their names, as the authors' data set does.
    y = np.unique(np.asarray(found.target), return_inverse=True)[1]
    rows = np.random.default_rng(0).permutation(len(y))[: options.n_images]
    paths, y = np.asarray(found.data)[rows], y[rows]
    table = [["weights", "images", "top-1 (%)", "standard error", "published (%)"]]
    for k, weights in enumerate(options.weights):
        share = top1(weights, paths, y)
        error = 100 * np.sqrt(share * (1 - share) / len(y))
        published = "" if options.published is None else options.published[k]
        table.append([Path(weights).name, len(y), f"{100 * share:.1f}", f"{error:.1f}", published])
        print(", ".join(f"{name} {value}" for name, value in zip(table[0], table[-1], strict=True)))
    with options.output.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table)


if __name__ == "__main__":
    main()
