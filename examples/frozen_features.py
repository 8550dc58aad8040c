"""Features of a frozen backbone, computed once and kept, with a head of your own on them."""

import sys

import torch
from torch import nn

import maskwright as mw
from maskwright.inference.features import FeatureStore


def main(folder: str = "runs/features", *, pretrained: bool = True, count: int = 40, epochs: int = 20) -> float:
    """Train a linear tag head on pooled maps; gives the share of right answers on scenes that it has not seen."""
    network = mw.create_classifier(
        backbone="tf_efficientnet_lite0" if pretrained else "resnet10t", num_tags=1, pretrained=pretrained
    ).eval()
    sets = [mw.scenes(split, count=count, size=128) for split in ("train", "val")]
    tags = len(sets[0].labels.foreground)

    def pooled(dataset: mw.data.Dataset) -> tuple[torch.Tensor, torch.Tensor]:
        store = FeatureStore(network, dataset, folder, "cpu")
        store.make([192])  # a long side of 192 pixels; files lie by backbone, image and size
        means = [store.maps(index, store.seen(index, 192))[-1][0].float().mean((1, 2)) for index in range(len(dataset))]
        truth = [
            torch.from_numpy(dataset.labels.tag_vector(dataset.tags(index) or ())) for index in range(len(dataset))
        ]
        return torch.stack(means), torch.stack(truth).float()

    (inputs, targets), (others, truth) = map(pooled, sets)
    head = nn.Linear(inputs.shape[1], tags)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.01)
    for _ in range(epochs):
        loss = nn.functional.binary_cross_entropy_with_logits(head(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(((head(others) > 0) == (truth > 0)).float().mean())


if __name__ == "__main__":
    print(f"{main(*sys.argv[1:]):.2f} of the answers are right")
