"""FiftyOne's own format, `FiftyOneDataset`: `samples.json`, `metadata.json`, images, masks and heat maps by path."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from PIL import Image

from maskwright.data.masks import write_mask
from maskwright.files import write_json
from maskwright.formats.export import Export, put_image

VERSION = "1.0.0"  # of FiftyOne, whose documents these are; a newer one migrates them
MASK, DOUBT = "segmentation", "uncertainty"  # names of the fields
FIELD = "fiftyone.core.fields"


def write_fiftyone(export: Export, folder: Path) -> list[str]:
    """A `Segmentation` with the path of a PNG, and a `Heatmap` of doubt, 255 the most, where the run knows it."""
    samples = []
    for example in export.examples():
        image = put_image(example, folder / "data")
        write_mask(folder / "fields" / MASK / f"{example.name}.png", example.mask, export.labels)
        height, width = example.mask.shape
        tags = [export.labels.names[value] for value in example.tags or ()]
        sample: dict[str, Any] = {
            "_id": _identity("sample", example.name),
            "filepath": f"data/{image}",
            "tags": [export.split, *tags],
            "metadata": {"_cls": "ImageMetadata", "width": width, "height": height, "num_channels": 3},
            "_media_type": "image",
            "_rand": int(_identity("rand", example.name)["$oid"][:12], 16) / 16**12,
            MASK: _label("Segmentation", example.name, mask_path=f"fields/{MASK}/{example.name}.png"),
        }
        if example.certainty is not None:
            path = f"fields/{DOUBT}/{example.name}.png"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(255 - example.certainty).save(folder / path)
            sample[DOUBT] = _label("Heatmap", example.name, map_path=path)
        samples.append(sample)
    targets = {str(value): name for value, name in enumerate(export.labels.names)}
    fields = [
        _field("id", "ObjectIdField", db_field="_id"),
        _field("filepath", "StringField"),
        _field("tags", "ListField", subfield=f"{FIELD}.StringField"),
        _field("metadata", "EmbeddedDocumentField", embedded_doc_type="fiftyone.core.metadata.ImageMetadata"),
        _field("created_at", "DateTimeField", read_only=True),
        _field("last_modified_at", "DateTimeField", read_only=True),
        _field(MASK, "EmbeddedDocumentField", embedded_doc_type="fiftyone.core.labels.Segmentation"),
    ]
    if any(DOUBT in sample for sample in samples):
        fields.append(_field(DOUBT, "EmbeddedDocumentField", embedded_doc_type="fiftyone.core.labels.Heatmap"))
    write_json(folder / "samples.json", {"samples": samples})
    write_json(
        folder / "metadata.json",
        {
            "version": VERSION,
            "media_type": "image",
            "group_media_types": {},
            "tags": [],
            "info": {"made_with": "maskwright", "masks": export.what},
            "app_config": {},
            "classes": {},
            "default_classes": [],
            "mask_targets": {MASK: targets},
            "default_mask_targets": targets,
            "skeletons": {},
            "sample_fields": fields,
            "frame_fields": [],
            "saved_views": [],
            "workspaces": [],
            "annotation_runs": {},
            "brain_methods": {},
            "evaluations": {},
            "runs": {},
        },
    )
    return []


def _label(kind: str, name: str, **path: str) -> dict[str, Any]:
    return {"_id": _identity(kind, name), "_cls": kind, "tags": [], **path}


def _field(name: str, kind: str, **facts: Any) -> dict[str, Any]:
    known: dict[str, Any] = {"embedded_doc_type": None, "subfield": None, "fields": [], "db_field": name}
    rest = {"description": None, "info": None, "read_only": False}
    return {"name": name, "ftype": f"{FIELD}.{kind}", **known, **rest, **facts}


def _identity(kind: str, name: str) -> dict[str, str]:
    """An identity of 24 hexadecimal digits, the same for the same image at every export."""
    return {"$oid": hashlib.blake2b(f"{kind} {name}".encode(), digest_size=12).hexdigest()}
