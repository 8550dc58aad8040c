"""Masks for images that have none, by whatever predicts them: one image's result, many files in a stream.

Nothing here needs torch, so that an exported model can be applied where it is not installed.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image

from maskwright.data.decode import Reading
from maskwright.data.images import image_suffixes, left_out, list_images
from maskwright.data.masks import overlay as lay_over
from maskwright.data.masks import write_mask
from maskwright.data.names import spelled
from maskwright.data.provenance import mark
from maskwright.data.sample import LabelSpace
from maskwright.engine.progress import track
from maskwright.errors import DataError
from maskwright.files import atomic_write
from maskwright.inference.inputs import ImageLike, as_array, several
from maskwright.inference.prefetch import prefetched
from maskwright.inference.tagged import Tags, each, how_many_tagged, tags_of_files

if TYPE_CHECKING:
    import torch

LARGEST = 2**26  # pixels of an image in a list that are predicted at once; a network may need gigabytes for them

REPOSITORY = "hf:"  # what the name of a repository of Hugging Face begins with


class Predicts:
    """What masks are made with, called with an image: a `Predictor`, or an `OnnxPredictor`."""

    labels: LabelSpace
    metadata: dict[str, Any]
    reading: Reading
    channels: int

    @overload
    def __call__(
        self, image: str | Path | Image.Image, *, tags: Tags | None = None, probabilities: bool = False
    ) -> Prediction: ...

    @overload
    def __call__(
        self, image: list[Any] | tuple[Any, ...], *, tags: Any = None, probabilities: bool = False
    ) -> list[Prediction]: ...

    @overload
    def __call__(self, image: np.ndarray | torch.Tensor, *, tags: Any = None, probabilities: bool = False) -> Any: ...

    def __call__(self, image: Any, *, tags: Any = None, probabilities: bool = False) -> Any:
        """The mask of one image, at the image's own size; of a list or a batch a list of them.

        Args:
            image: a path; a Pillow image (EXIF orientation is applied to both); an array `(H, W)` or `(H, W, 3)`; a
                tensor `(H, W)` or `(3, H, W)`; a list of such, or a batch `(B, H, W, 3)` or `(B, 3, H, W)`. Numbers are
                uint8, uint16, or floating point from 0 to 1; RGB, not normalised. See `inputs.as_array`.
            tags: names or values of the classes that the image is known to show: no other may be in its mask, but for
                the background. By default nothing is known of it. Of several images a list of such, one for each.
            probabilities: compute them now, with the mask; otherwise they are computed when they are asked for.

        Raises:
            DataError: a file that cannot be read, an array of another shape, type or range, tags that are no class, or
                of another number of images.
        """
        images = several(image)
        if images is not None:
            return [self(one, tags=own, probabilities=probabilities) for one, own in zip(images, each(tags, images))]
        return self.predict(self.pixels(image), tags=tags, probabilities=probabilities)

    def probabilities(self, image: ImageLike, *, tags: Tags | None = None) -> np.ndarray:
        """Softmax probabilities `(C, H, W)` float32 at the image's own size.

        Args:
            image: a single one, as for a call.
            tags: as for a call; all other classes but the background have 0, and these share what they had.

        Raises:
            DataError: as a call.
        """
        return self.of_pixels(self.pixels(image), tags=tags)

    def pixels(self, image: ImageLike) -> np.ndarray:
        """An image `(H, W, C)` uint8 as the predictor sees it.

        Raises:
            DataError: as a call.
        """
        return as_array(image, self.reading, self.channels)

    def predict(self, pixels: np.ndarray, *, tags: Tags | None = None, probabilities: bool = False) -> Prediction:
        """As a call, of what `pixels` gives."""
        raise NotImplementedError(f"{type(self).__name__} must implement predict(pixels)")

    def of_pixels(self, pixels: np.ndarray, *, tags: Tags | None = None) -> np.ndarray:
        """As `probabilities`, of what `pixels` gives."""
        raise NotImplementedError(f"{type(self).__name__} must implement of_pixels(pixels)")

    def for_many(self) -> Predicts:
        """The same, made ready for many images; itself where it always is."""
        return self

    def working(self) -> AbstractContextManager:
        """A block in which many images are predicted."""
        return nullcontext()

    def made_by(self) -> dict[str, Any]:
        """What a folder of its masks says of it: `model`, its file, and `weights`, a hash; empty without a file."""
        return {}


@dataclass(eq=False)
class Prediction:
    """What a predictor found in one image.

    Args:
        image: `(H, W, C)` uint8, as the predictor saw it.
        mask: `(H, W)` uint8 label values.
        labels: what they mean.
        predictor: computes the probabilities when they are asked for.
        possible: values of the classes that it may show, background included; None where its tags are not known.
    """

    image: np.ndarray = field(repr=False)
    mask: np.ndarray = field(repr=False)
    labels: LabelSpace
    predictor: Predicts = field(repr=False)
    possible: tuple[int, ...] | None = field(default=None, repr=False)
    _known: np.ndarray | None = field(default=None, repr=False)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """`(C, H, W)` float32, summing to 1 over C; computed at the first access unless asked for at once."""
        return self._known if self._known is not None else self.predictor.of_pixels(self.image, tags=self.possible)

    @property
    def classes(self) -> dict[str, float]:
        """Share of the image that each class found in it has, the largest first."""
        counts = np.bincount(self.mask.ravel(), minlength=self.labels.num_classes)
        order = [value for value in np.argsort(-counts, kind="stable").tolist() if counts[value]]
        return {self.labels.names[value]: float(counts[value] / self.mask.size) for value in order}

    def overlay(self, strength: float = 0.5) -> Image.Image:
        """The image with the class colours laid over it; `strength` 0 (only image) to 1 (only colours)."""
        return Image.fromarray(lay_over(self.image, self.mask, self.labels, strength))

    def save(self, path: str | Path) -> None:
        """Write the mask as a palette PNG.

        Raises:
            DataError: the path does not end in `.png`.
        """
        write_mask(path, self.mask, self.labels)


def predict_files(
    predictor: Predicts,
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    overlay: bool = True,
    probabilities: bool = False,
    tags: str | Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    workers: int = 2,
) -> tuple[list[str], list[str]]:
    """Masks for many images, streamed: memory does not grow with their number.

    Writes `out/masks/NAME.png` (palette), `out/overlays/NAME.jpg`, and with `probabilities`
    `out/probabilities/NAME.npz` (`probabilities` float16 `(C, H, W)`, `classes` `(C,)`). NAME is the path without
    suffix below the folder that was given, below the fixed part of a glob, or below the common folder of single files.
    Each of the three says in its `provenance.json` what it holds, so that no data set takes it for ground truth.

    Args:
        predictor: what `maskwright.load` gives.
        images: files, folders (searched with their subfolders, results left out) and globs.
        out: folder to write to.
        overlay: also write overlays.
        probabilities: also write probabilities.
        tags: a table or a folder of the images' tags, as for training; see `maskwright.inference.tagged`.
        say: told how many images have tags.
        workers: threads that read ahead, and as many that write.

    Returns:
        Paths of the images that were predicted, and for each that was not, a text with its path and the reason. A
        failure never stops the rest: unreadable files, paths that do not exist, and images whose name another one has
        already taken (`a.jpg` beside `a.png`) are reported.

    Raises:
        DataError: one of the folders to write to holds files that are no results, such as ground truth; or tags that
            cannot be read, are no class, or are of none of the images.
    """
    out = Path(out)
    found, failures = find_images([images] if isinstance(images, str | Path) else images, out)
    folders = {"masks": "predictions", "overlays": "overlays", "probabilities": "probabilities"}
    written = {"masks": True, "overlays": overlay, "probabilities": probabilities}
    made_by, known = predictor.made_by(), dict[str, tuple[int, ...]]()
    if found and tags is not None:
        known = tags_of_files(tags, found, predictor.labels, predictor.metadata.get("recipe", {}).get("data", {}))
        made_by["tags_read"] = str(tags)
        say(how_many_tagged([known.get(name) for name in found], str(tags), "predicted freely"))
    if found:
        mark({out / name: what for name, what in folders.items() if written[name]}, made_by)
    done: list[str] = []
    predictor = predictor.for_many() if len(found) > 2 else predictor
    read = prefetched(lambda name: predictor.pixels(found[name]), found, workers=workers, ahead=2 * workers)

    def predicted() -> Iterator[tuple[str, Prediction]]:
        for name in track(found, title="predicting"):
            try:
                pixels = next(read).result()
                _refuse_huge(pixels, predictor)
                prediction = predictor.predict(pixels, tags=known.get(name), probabilities=probabilities)
            except DataError as error:
                failures.append(_with_path(found[name], str(error)))
            except (MemoryError, RuntimeError) as error:
                where = "GPU memory" if type(error).__name__ == "OutOfMemoryError" else "memory"  # torch's
                if where == "memory" and isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
                    raise
                failures.append(f"{found[name]}: out of {where}; set inference.window or inference.size")
            else:
                yield name, prediction

    def write(item: tuple[str, Prediction]) -> str:
        name, prediction = item
        prediction.save(out / "masks" / f"{name}.png")
        if overlay:
            with atomic_write(out / "overlays" / f"{name}.jpg") as temporary:
                prediction.overlay().save(temporary, quality=90)
        if probabilities:
            with atomic_write(out / "probabilities" / f"{name}.npz") as temporary:
                half = prediction.probabilities.astype(np.float16)
                np.savez_compressed(temporary, probabilities=half, classes=np.array(prediction.labels.names))
        return found[name]

    with predictor.working():
        for future in prefetched(write, predicted(), workers=workers, ahead=2 * workers):
            done.append(future.result())
    return done, failures


def _refuse_huge(pixels: np.ndarray, predictor: Predicts) -> None:
    """Refuse an image that would take many gigabytes, while those after it wait.

    Raises:
        DataError: it does, and no setting says how to see it in parts, or smaller.
    """
    settings = getattr(predictor, "settings", None)  # an exported model has its size in its file
    height, width = pixels.shape[:2]
    if settings is not None and settings.size is None and settings.window is None and height * width > LARGEST:
        raise DataError(
            f"{width}x{height} pixels are too many to predict at once, expected at most {LARGEST:,}; give "
            "inference.window=[1024,1024] to predict it in parts, or inference.size to see it smaller"
        )


def find_images(images: Sequence[str | Path], out: Path) -> tuple[dict[str, str], list[str]]:
    """Images by the name that their results get.

    Args:
        images: files, folders and globs.
        out: folder of results; its subfolders that hold them are not searched, so that they are not taken for images.

    Returns:
        Name -> path in the order given, and texts about what cannot be predicted.
    """
    found: dict[str, str] = {}
    failures: list[str] = []
    results = [(out / name).resolve() for name in ("masks", "overlays", "probabilities", "maps")]

    def add(name: str, path: str) -> None:
        if not os.path.isfile(path):  # reading a pipe or a device would wait for ever
            failures.append(f"{path}: is not a regular file")
        elif name.startswith("../"):
            failures.append(f"{path}: its result would lie outside of {out}; give its folder by itself")
        elif name not in found:
            found[name] = path
        elif not os.path.samefile(found[name], path):
            failures.append(
                f"{path}: its result would have the name {name!r}, which that of {found[name]} has; rename one or "
                "predict them into different folders"
            )

    inputs = [str(given) if glob.has_magic(str(given)) else str(spelled(Path(given))) for given in images]
    files = [given for given in inputs if os.path.isfile(given)]
    common = os.path.commonpath([os.path.dirname(os.path.abspath(given)) for given in files]) if files else ""
    for given in inputs:
        if given in files:
            add(_stem(os.path.relpath(os.path.abspath(given), common)), given)
        elif os.path.isdir(given):
            others: Counter[str] = Counter()
            listed, twice = list_images(given, skip=results, others=others)
            for name, path in listed.items():
                add(name, path)
            failures += [
                f"{listed[name]}: was predicted, but files beside it that differ only in their suffix were not; "
                "rename them"
                for name in twice
            ]
            if others:
                failures.append(f"{given}: {left_out(others)}")
            elif not listed:
                failures.append(f"{given}: no image in this folder")
        else:
            paths = [path for path in sorted(glob.glob(given, recursive=True)) if _is_image(path, results)]
            base = os.path.dirname(given[: min((given.find(sign) for sign in "*?[" if sign in given), default=0)])
            for path in paths:
                add(_stem(os.path.relpath(path, base or ".")), path)
            if not paths:
                failures.append(f"{given}: {'matches no image' if glob.has_magic(given) else 'does not exist'}")
    return found, failures


def _is_image(path: str, results: Sequence[Path]) -> bool:
    return (
        os.path.isfile(path)
        and os.path.splitext(path)[1].lower() in image_suffixes()
        and not any(Path(path).resolve().is_relative_to(folder) for folder in results)
    )


def _stem(path: str) -> str:
    return os.path.splitext(path)[0].replace(os.sep, "/")


def _with_path(path: str, text: str) -> str:
    return text if str(path) in text else f"{path}: {text}"
