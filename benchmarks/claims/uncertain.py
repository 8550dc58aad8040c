"""What `select=uncertain` finds: how many of a run's wrong pixels lie in the images that it would give to people.

    maskwright label instant data=DATA tags=tags_objects.csv data.train=LIST out=RUN
    python -m benchmarks.claims.uncertain RUN masks=FOLDER

The masks of DATA are ground truth; the run has not seen them. Images are ordered by `most_uncertain`, at random, and by
the true share of wrong pixels, which is the best that any order can do.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np

from maskwright.pipeline.evaluate import open_run_data, recipe_with, stored_recipe
from maskwright.pipeline.export import most_uncertain, pseudo_mask
from maskwright.runs.context import RunContext
from maskwright.runs.folder import RunFolder

SHARES = (0.1, 0.25, 0.5)


def main(words: list[str]) -> None:
    run = RunFolder(words[0])
    recipe = recipe_with(stored_recipe(run), words[1:])
    dataset = open_run_data(run, RunContext(recipe, run, lambda line: None), "train")
    masks = partial(pseudo_mask, run, dataset)
    chosen = [index for index in range(len(dataset)) if Path(run.masks / f"{dataset.names[index]}.png").is_file()]
    wrong = {}
    for index in chosen:
        mask, truth = masks(index)[0], dataset.mask(index)
        known = (mask != dataset.labels.ignore_index) & (truth != dataset.labels.ignore_index)
        wrong[index] = float((mask != truth)[known].mean()) if known.any() else 0.0
    total = sum(wrong.values())
    orders = {
        "select=uncertain": most_uncertain(dataset, chosen, masks, len(chosen)),
        "best possible": sorted(chosen, key=lambda index: -wrong[index]),
    }
    doubted = {index: -place for place, index in enumerate(orders["select=uncertain"])}
    places = [np.argsort(np.argsort([values[index] for index in chosen])) for values in (doubted, wrong)]
    print(f"{len(chosen)} images, {np.mean(list(wrong.values())):.3f} of the pixels wrong")
    print(f"rank correlation of doubt and wrong pixels {np.corrcoef(*places)[0, 1]:.2f}")
    for share in SHARES:
        count = round(share * len(chosen))
        cells = [f"at random {share:.2f}"]
        cells += [
            f"{name} {sum(wrong[index] for index in order[:count]) / total:.2f}" for name, order in orders.items()
        ]
        print(f"of the wrong pixels, {count} images hold: {', '.join(cells)}")


if __name__ == "__main__":
    main(sys.argv[1:])
