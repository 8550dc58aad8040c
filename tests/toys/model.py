"""A toy segmenter: one 1x1 convolution on the coarsest feature map."""

from torch import nn

from maskwright.models import SegmentationModel


class Toy(SegmentationModel):
    def __init__(self, backbone, num_classes, *, bias=True):
        super().__init__(backbone, num_classes)
        backbone.use_only([len(backbone.strides) - 1])
        self.classifier = nn.Conv2d(backbone.channels[-1], num_classes, 1, bias=bias)

    def head(self, features, size):
        return {"logits": self.classifier(features[-1])}
