"""CPP pooling on a model from elsewhere: a coarse head on one of its feature maps, learned beside its own loss.

With segmentation-models-pytorch (`pip install segmentation-models-pytorch`) it is `smp.Unet`; without, a small network.
"""

import importlib.util

import torch
from torch import Tensor, nn

from maskwright.losses import CPPLoss, cross_entropy

CLASSES = 6


class Small(nn.Module):
    """Encoder and decoder, as `smp.Unet` has them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            [nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(32, 32, 3, 2, 1)]
        )
        self.decoder = nn.Conv2d(32, CLASSES, 1)

    def features(self, images: Tensor) -> list[Tensor]:
        found = [images]
        for layer in self.encoder:
            found.append(layer(found[-1]).relu())
        return found

    def decode(self, features: list[Tensor], size: torch.Size) -> Tensor:
        return nn.functional.interpolate(self.decoder(features[-1]), size, mode="bilinear")


class Unet(nn.Module):
    """`smp.Unet`, with its parts called one by one."""

    def __init__(self) -> None:
        super().__init__()
        import segmentation_models_pytorch as smp

        self.model = smp.Unet("resnet18", encoder_weights=None, classes=CLASSES)

    def features(self, images: Tensor) -> list[Tensor]:
        return self.model.encoder(images)

    def decode(self, features: list[Tensor], size: torch.Size) -> Tensor:
        return self.model.segmentation_head(self.model.decoder(features))


def main(steps: int = 5) -> list[float]:
    torch.manual_seed(0)
    model = Unet() if importlib.util.find_spec("segmentation_models_pytorch") else Small()
    images, labels = torch.randn(2, 3, 64, 64), torch.randint(0, CLASSES, (2, 64, 64))
    labels[:, :8] = 255
    width = model.features(images)[3].shape[1]  # the map of stride 8
    # One channel more than classes: the share of ignored pixels in a cell, as in the paper.
    coarse = nn.Conv2d(width, CLASSES + 1, 1)
    cpp = CPPLoss(ignore_index=255)
    optimizer = torch.optim.AdamW([*model.parameters(), *coarse.parameters()], lr=0.001)
    losses = []
    for _ in range(steps):
        features = model.features(images)
        loss = cross_entropy(model.decode(features, labels.shape[1:]), labels) + 0.4 * cpp(coarse(features[3]), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print([round(loss, 3) for loss in main()])
