"""Tags for all images, masks for a few: what the masks add.

`python examples/mixed_supervision.py` trains on the built-in scenes from tags alone, and with masks of every tenth
image.
"""

import json
from pathlib import Path

import maskwright as mw


def main(*settings: str, out: str = "runs/mixed") -> dict[str, float]:
    Path(out).mkdir(parents=True, exist_ok=True)
    recipe = mw.load_recipe("demo", settings)
    names = mw.open_dataset(recipe.data, "train").names
    listed = Path(out) / "masks.txt"
    listed.write_text("".join(f"{name}\n" for name in names[::10]))
    scores = {}
    ways = {
        "tags": [],
        "tags and some masks": ["supervision=mixed", f"mixed_list={listed}"],
    }
    for words, more in ways.items():
        folder = f"{out}/{words.replace(' ', '-')}"
        recipe = mw.load_recipe("demo", [f"out={folder}", "fully_supervised=false", *settings, *more])
        mw.run(recipe, until="evaluation")
        scores[words] = json.loads((Path(folder) / "evaluation" / "metrics.json").read_text())["miou"]
    return scores


if __name__ == "__main__":
    print(main())
