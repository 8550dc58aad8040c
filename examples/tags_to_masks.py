"""From tags to masks, a model and a report, on a folder of photographs.

    python examples/tags_to_masks.py photos/ tags.csv

Without a folder it makes one: forty built-in scenes with their tags in a spreadsheet, so that it can be tried at once.
"""

import csv
import sys
from pathlib import Path

from PIL import Image

import maskwright as mw


def write_photographs(folder: Path, count: int) -> None:
    """Images and `tags.csv`, as people have them."""
    drawn = mw.scenes("train", count=count, size=96)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "tags.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "tags"])
        for index, name in enumerate(drawn.names):
            sample = drawn[index]
            Image.fromarray(sample.image).save(folder / f"{name}.png")
            table.writerow([f"{name}.png", ";".join(drawn.labels.names[value] for value in sample.tags)])


def main(folder: str = "", tags: str = "", *settings: str, out: str = "runs/example", count: int = 40) -> Path:
    if not folder:
        folder = f"{out}-photographs"
        write_photographs(Path(folder), count)
    recipe = mw.load_recipe("instant", [f"data={folder}", f"tags={tags or 'tags.csv'}", f"out={out}", *settings])
    mw.run(recipe)
    predict = mw.load(out)
    first = next(path for path in sorted(Path(folder).rglob("*")) if path.suffix.lower() in (".png", ".jpg"))
    predict(str(first)).save(f"{out}/first_mask.png")
    return Path(out)


if __name__ == "__main__":
    print(f"open {main(*sys.argv[1:])}/report.html")
