"""A trained segmenter, called with an image."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskwright.data.augment import normalise, resize_image
from maskwright.data.decode import Reading
from maskwright.data.sample import LabelSpace
from maskwright.data.sizes import seen_size
from maskwright.engine.checkpoint import weights_hash
from maskwright.engine.device import freed_memory_kept, half_type
from maskwright.inference.files import Prediction, Predicts
from maskwright.inference.tagged import Tags, possible_classes
from maskwright.inference.views import predict_labels, predict_probabilities
from maskwright.models.folding import inference_copy
from maskwright.models.layers import resize
from maskwright.settings import InferenceSettings


class Predictor(Predicts):
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
        self.reading, self.channels = Reading.of(preprocessing), len(self.mean)

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

    def predict(self, pixels: np.ndarray, *, tags: Tags | None = None, probabilities: bool = False) -> Prediction:
        """As a call, of what `pixels` gives."""
        classes = possible_classes(tags, self.labels)
        if probabilities:
            found = self.of_pixels(pixels, tags=classes)
            return Prediction(pixels, found.argmax(0).astype(np.uint8), self.labels, self, classes, _known=found)
        size = (pixels.shape[0], pixels.shape[1])
        mask = predict_labels(self.model, self._prepared(pixels), self.settings, size, classes)[0]
        return Prediction(pixels, mask.to(torch.uint8).cpu().numpy(), self.labels, self, classes)

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
