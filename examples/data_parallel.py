"""
One training on several GPUs
============================

The script is the same for one process and for several processes. ``torchrun`` starts several processes, which
train one model together.

.. code-block:: console

   python data_parallel.py
   torchrun --nproc-per-node 2 data_parallel.py
"""

import argparse

import numpy as np
from sklearn.datasets import load_sample_images

from sklearn_simclr import SimCLRTransformer

parser = argparse.ArgumentParser(description="Train on crops of the photographs of scikit-learn.")
parser.add_argument("--encoder", default="resnet18")
parser.add_argument("--n-images", type=int, default=4096)
parser.add_argument("--batch-size", type=int, default=512, help="images per step, of all processes together")
parser.add_argument("--max-epochs", type=int, default=3)
parser.add_argument("--device", default="auto")
options = parser.parse_args()

rng = np.random.default_rng(0)
photographs = load_sample_images().images
corners = rng.integers(0, 390, (options.n_images, 2))
X = np.stack([photographs[k % 2][i : i + 32, j : j + 32] for k, (i, j) in enumerate(corners)])

simclr = SimCLRTransformer(
    options.encoder,
    batch_size=options.batch_size,
    max_epochs=options.max_epochs,
    device=options.device,
    random_state=0,
).fit(X)
last = simclr.history_.iloc[-1]
print(f"loss {last['loss']:.4f}, {len(X) / last['seconds']:.0f} images/s in the last epoch", flush=True)
