"""Run an example and save its figures: ``python .ci/demo.py examples/plot_NAME.py FOLDER``."""

import os
import runpy
import sys
from functools import partial
from pathlib import Path

os.environ["MPLBACKEND"] = "Agg"
import matplotlib.pyplot as plt

import sklearn_simclr

# The page of an example shows no progress; who runs the demo waits for a minute.
sklearn_simclr.label_fraction_curve = partial(sklearn_simclr.label_fraction_curve, verbose=1)
script, folder = Path(sys.argv[1]), Path(sys.argv[2])
plt.show = lambda: None  # Agg would warn that it has no screen.
runpy.run_path(str(script), run_name="__main__")
folder.mkdir(parents=True, exist_ok=True)
paths = [folder / f"{name}.png" for name in plt.get_figlabels()]
for path in paths:
    plt.figure(path.stem).savefig(path, dpi=150)
print(f"\nThe figures: {', '.join(map(str, paths))}")
