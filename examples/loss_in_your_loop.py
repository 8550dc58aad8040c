"""A loss of a paper in a training loop of your own: loss max-pooling on a model that maskwright knows nothing of."""

import torch
from torch import nn

from maskwright.losses import LossMaxPooling

CLASSES = 5


def main(steps: int = 20) -> list[float]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, CLASSES, 1))
    criterion = LossMaxPooling(p=1.7, ratio=0.25, ignore_index=255)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    images = torch.randn(4, 3, 64, 64)
    labels = (images.mean(1) > 0.5).long()  # class 1 is rare, and most of 2, 3 and 4 is never seen
    labels[:, :4] = 255  # no label: neither value nor gradient depends on these pixels
    losses = []
    for _ in range(steps):
        loss = criterion(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print([round(loss, 3) for loss in main()])
