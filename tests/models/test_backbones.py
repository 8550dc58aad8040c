import subprocess
import sys

import pytest
import torch

from maskwright.errors import RecipeError
from maskwright.models import backbones
from maskwright.models.backbones import Backbone, create_backbone

pytestmark = pytest.mark.versions

torch.set_num_threads(1)
SMALL_SWIN = {"depths": (1, 1, 1, 1), "embed_dim": 16, "num_heads": (1, 2, 4, 8)}
SMALL_VIT = {"depth": 8, "embed_dim": 32, "num_heads": 2}


def sizes(backbone, height, width):
    with torch.no_grad():
        return [tuple(feature.shape[1:]) for feature in backbone.eval()(torch.randn(1, 3, height, width))]


def expected(backbone, height, width):
    pairs = zip(backbone.channels, backbone.strides, strict=True)
    return [(channels, -(-height // stride), -(-width // stride)) for channels, stride in pairs]


@pytest.mark.parametrize(
    ("name", "options", "strides"),
    [
        ("resnet18", {}, [2, 4, 8, 16, 32]),
        ("resnet18", {"output_stride": 16}, [2, 4, 8, 16, 16]),
        ("resnet18", {"output_stride": 8, "dilate": False}, [2, 4, 8, 8, 8]),
        ("convnext_atto", {"output_stride": 16}, [4, 8, 16, 16]),  # rounds odd sizes down by itself
        ("mobilenetv3_small_050", {"output_stride": 8}, [2, 4, 8, 8, 8]),
        ("mobilevitv2_050", {}, [2, 4, 8, 16, 32]),  # needs multiples of twice its stride
        ("hrnet_w18_small", {}, [2, 4, 8, 16, 32]),
        ("swin_tiny_patch4_window7_224", SMALL_SWIN, [4, 8, 16, 32]),
        ("vit_tiny_patch16_224", SMALL_VIT, [16, 16, 16, 16]),
        ("vit_tiny_patch16_224", {**SMALL_VIT, "output_stride": 16}, [16, 16, 16, 16]),
        ("resnet38", {"width": 1 / 16, "output_stride": 8}, [8, 8, 8]),
        ("vgg16", {"width": 1 / 16}, [1, 2, 4, 8, 8]),
        ("vgg16", {"width": 1 / 16, "output_stride": 16, "large_fov": True}, [1, 2, 4, 8, 16]),
    ],
)
def test_maps_of_any_size(name, options, strides):
    backbone = create_backbone(name, **options)
    assert backbone.training
    assert backbone.strides == strides
    for size in ((65, 97), (64, 33)):
        assert sizes(backbone, *size) == expected(backbone, *size)


def test_hrnet_gives_its_raw_branches():
    assert create_backbone("hrnet_w18_small").channels[1:] == [16, 32, 64, 128]


def test_vit_is_tapped_evenly_and_its_maps_differ():
    backbone = create_backbone("vit_tiny_patch16_224", **SMALL_VIT).eval()
    assert list(backbone.network.out_indices) == [1, 3, 5, 7]
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 32, 48))
    assert len({feature.sum().item() for feature in maps}) == 4
    assert backbone.mean == (0.5, 0.5, 0.5)


def test_padding_does_not_move_the_picture():
    """Where the image is a multiple already, padding a larger canvas by hand gives the same corner of each map."""
    backbone = create_backbone("vit_tiny_patch16_224", **SMALL_VIT).eval()
    images = torch.randn(1, 3, 30, 32)
    with torch.no_grad():
        padded = backbone(torch.nn.functional.pad(images, (0, 0, 0, 2)))
        for small, large in zip(backbone(images), padded, strict=True):
            torch.testing.assert_close(small, large)


def dilations(backbone):
    stages = [getattr(backbone.network, f"layer{number}") for number in (1, 2, 3, 4)]
    return [
        [
            {layer.dilation[0] for layer in block.modules() if getattr(layer, "kernel_size", 0) == (3, 3)}
            for block in stage
        ]
        for stage in stages
    ]


def test_dilation_variants_of_a_resnet():
    with_stride = {"name": "resnet18", "output_stride": 8}
    assert dilations(create_backbone(**with_stride)) == [[{1}, {1}], [{1}, {1}], [{1, 2}, {2}], [{2, 4}, {4}]]
    assert dilations(create_backbone(**with_stride, dilate=False)) == [[{1}, {1}]] * 4
    papers = create_backbone(**with_stride, dilations=(1, 1, 2, 2))
    assert dilations(papers) == [[{1}, {1}], [{1}, {1}], [{1}, {2}], [{1}, {2}]]
    assert sizes(papers, 65, 97) == expected(papers, 65, 97)
    with pytest.raises(RecipeError, match="four numbers and a ResNet"):
        create_backbone("mobilenetv3_small_050", dilations=(1, 1, 2, 2))


def test_impossible_output_stride_names_the_possible_ones():
    with pytest.raises(RecipeError, match=r"swin_tiny.* cannot have output stride 16, only 32\. .*none for 32"):
        create_backbone("swin_tiny_patch4_window7_224", output_stride=16, **SMALL_SWIN)
    with pytest.raises(RecipeError, match="cannot have output stride 4, only 8, 16, 32"):
        create_backbone("resnet18", output_stride=4)


def test_fixed_size_network_says_so():
    backbone = create_backbone("visformer_tiny").eval()
    with pytest.raises(RecipeError, match="images of 224x224 pixels only, found 64x96"):
        backbone(torch.zeros(1, 3, 64, 96))
    assert sizes(backbone, 224, 224) == expected(backbone, 224, 224)


def test_irregular_maps_are_refused():
    with pytest.raises(RecipeError, match="do not lie on grids"):
        create_backbone("crossvit_tiny_240")


def test_unknown_names_and_options():
    with pytest.raises(RecipeError, match="Did you mean 'resnet50'"):
        create_backbone("resnett50")
    with pytest.raises(RecipeError, match="backbone resnet18 has no option 'drop_pth_rate'"):
        create_backbone("resnet18", drop_pth_rate=0.1)
    with pytest.raises(RecipeError, match=r"weights of resnet18 'a1_in2k'.*'a1_in1k'"):
        create_backbone("resnet18.a1_in2k")


def test_other_channel_counts():
    backbone = create_backbone("resnet18", in_channels=1).eval()
    assert len(backbone.mean) == len(backbone.std) == 1
    with torch.no_grad():
        assert backbone(torch.zeros(1, 1, 33, 33))[0].shape == (1, 64, 17, 17)


def test_own_backbones_come_first(monkeypatch):
    class Tiny(Backbone):
        def forward(self, images):
            return [images]

    def tiny(name, *, pretrained, output_stride, in_channels, width=3):
        return Tiny(name, [width], [1])

    monkeypatch.setitem(backbones.BACKBONES, "tiny", tiny)
    assert create_backbone("tiny", width=7).channels == [7]


def test_timm_is_only_imported_when_needed():
    code = "import sys, maskwright.models; print([name for name in ('timm', 'torchvision') if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout
    assert out.strip() == "[]"
