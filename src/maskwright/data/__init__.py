"""Images with their masks, tags and saliency maps: `open_dataset` gives one split of any set that a reader knows."""

from __future__ import annotations

from maskwright.data.dataset import Dataset
from maskwright.data.finding import Complain, refuse
from maskwright.data.readers import BUILT_IN, READERS, open_split, reader_name
from maskwright.data.sample import LabelSpace, Sample
from maskwright.data.shards.reader import shard_list
from maskwright.data.views import objects_only, subset, with_masks, with_saliency, without_masks
from maskwright.settings import DataSettings

__all__ = [
    "BUILT_IN",
    "READERS",
    "Dataset",
    "LabelSpace",
    "Sample",
    "objects_only",
    "open_dataset",
    "open_split",
    "reader_name",
    "shard_list",
    "subset",
    "with_masks",
    "with_saliency",
    "without_masks",
]


def open_dataset(
    settings: DataSettings, split: str, *, shard: str | None = None, complain: Complain = refuse
) -> Dataset:
    """One split of a set of images; see `maskwright.data.readers.folder` for layouts, splits, classes and background.

    Args:
        settings: where the images, masks and tags are.
        split: which images; `all` for every one in a folder.
        shard: of a set of shards only this one of `shard_list`; nothing of the others is read.
        complain: what to do with findings; by default errors are raised.

    Raises:
        DataError: what is on disk is not as expected; the message names the file and the fix.
    """
    dataset = with_saliency(open_split(settings, split, complain, shard=shard), settings)
    return objects_only(dataset) if settings.objects else dataset
