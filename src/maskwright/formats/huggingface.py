"""A data set folder of Hugging Face `datasets`: `SPLIT/metadata.jsonl` with an image and a mask in each row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from maskwright.data.masks import write_mask
from maskwright.formats.export import Export, put_image


def write_huggingface(export: Export, folder: Path) -> list[str]:
    """`datasets.load_dataset(FOLDER)` gives the columns `image` and `mask`, and `tags` where they are known."""
    place = folder / export.split
    rows: list[dict[str, Any]] = []
    labels = export.labels
    for example in export.examples():
        image = put_image(example, place / "images")
        write_mask(place / "masks" / f"{example.name}.png", example.mask, labels)
        rows.append({"file_name": f"images/{image}", "mask_file_name": f"masks/{example.name}.png"})
        if example.tags is not None:
            rows[-1]["tags"] = [labels.names[value] for value in example.tags]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (place / "metadata.jsonl").write_text(lines, encoding="utf-8")
    card = {
        "task_categories": ["image-segmentation"],
        "configs": [{"config_name": "default", "data_files": [{"split": export.split, "path": f"{export.split}/**"}]}],
    }
    names = "".join(f"| {value} | {name} |\n" for value, name in enumerate(labels.names))
    (folder / "README.md").write_text(
        f"---\n{yaml.safe_dump(card, sort_keys=False)}---\n\nMasks: {export.what}, by maskwright.\n\n"
        f"| value | class |\n|---|---|\n{names}| {labels.ignore_index} | no label |\n",
        encoding="utf-8",
    )
    (folder / "id2label.json").write_text(
        json.dumps({str(value): name for value, name in enumerate(labels.names)}, ensure_ascii=False, indent=2) + "\n",
        encoding="utf-8",
    )
    return []
