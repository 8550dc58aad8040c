"""A trained segmenter, called with an image."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image

from maskwright.data.augment import normalise, resize_image
from maskwright.data.decode import Reading
from maskwright.data.sample import LabelSpace
from maskwright.data.sizes import seen_size
from maskwright.engine.checkpoint import weights_hash
from maskwright.engine.device import freed_memory_kept, half_type
from maskwright.inference.files import Prediction
from maskwright.inference.inputs import ImageLike, as_array, several
from maskwright.inference.tagged import Tags, each, possible_classes
from maskwright.inference.views import predict_labels, predict_probabilities
from maskwright.models.folding import inference_copy
from maskwright.models.layers import resize
from maskwright.settings import InferenceSettings


class Predictor:
    """A trained segmenter with all that belongs to it; call it with an image.

    Args:
        model: a `SegmentationModel`; moved to the device and set to evaluation.
        labels: what its classes mean.
        settings: how it is applied.
        device: where it computes.
        metadata: what its file says: model, labels, preprocessing, recipe.
        file: where the model was read from.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        labels: LabelSpace,
        settings: InferenceSettings | None = None,
        device: torch.device | str = "cpu",
        metadata: dict[str, Any] | None = None,
        file: Path | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.model: Any = model.to(self.device).eval()
        self.labels = labels
        self.settings = settings or InferenceSettings.model_validate({})
        self.metadata = metadata or {}
        self.file = file
        preprocessing = self.metadata.get("preprocessing", {})
        self.mean = tuple(preprocessing.get("mean", self.model.mean))
        self.std = tuple(preprocessing.get("std", self.model.std))
        self.reading = Reading.of(preprocessing)

    def for_many(self) -> Predictor:
        """The same with a network made ready for many images, at the cost of a copy; see `inference_copy`."""
        ready = inference_copy(self.model, half_type(self.settings.autocast, self.device))
        return Predictor(ready, self.labels, self.settings, self.device, self.metadata, self.file)

    def working(self) -> AbstractContextManager:
        """A block in which many images are predicted: memory that they free stays with the process."""
        return freed_memory_kept(self.device)

    def made_by(self) -> dict[str, Any]:
        """What a folder of its masks says of it: `model`, its file, and `weights`, their hash."""
        return {} if self.file is None else {"model": str(self.file.resolve()), "weights": weights_hash(self.file)}

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

    def predict(self, pixels: np.ndarray, *, tags: Tags | None = None, probabilities: bool = False) -> Prediction:
        """As a call, of what `pixels` gives."""
        classes = possible_classes(tags, self.labels)
        if probabilities:
            found = self.of_pixels(pixels, tags=classes)
            return Prediction(pixels, found.argmax(0).astype(np.uint8), self.labels, self, classes, _known=found)
        size = (pixels.shape[0], pixels.shape[1])
        mask = predict_labels(self.model, self._prepared(pixels), self.settings, size, classes)[0]
        return Prediction(pixels, mask.to(torch.uint8).cpu().numpy(), self.labels, self, classes)

    def probabilities(self, image: ImageLike, *, tags: Tags | None = None) -> np.ndarray:
        """Softmax probabilities `(C, H, W)` float32 at the image's own size, mean over scales and flips.

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
        return as_array(image, self.reading, len(self.mean))

    def of_pixels(self, pixels: np.ndarray, *, tags: Tags | None = None) -> np.ndarray:
        """As `probabilities`, of what `pixels` gives."""
        classes = possible_classes(tags, self.labels)
        found = predict_probabilities(self.model, self._prepared(pixels), self.settings, classes)
        return resize(found, (pixels.shape[0], pixels.shape[1]))[0].cpu().numpy()

    def _prepared(self, pixels: np.ndarray) -> torch.Tensor:
        """Network input `(1, C, h, w)`."""
        seen = (
            pixels if self.settings.size is None else resize_image(pixels, seen_size(self.settings.size, pixels.shape))
        )
        image = torch.from_numpy(np.array(seen.transpose(2, 0, 1), order="C"))
        return normalise(image[None].to(self.device), self.mean, self.std)
