"""Tag classifiers read the map that timm's own classifier pools, of every family, at every stride that it has."""

import copy

import pytest
import torch
from safetensors.torch import save_file

from maskwright.data.sample import LabelSpace
from maskwright.engine.checkpoint import describe, save_model
from maskwright.errors import DataError, RecipeError
from maskwright.models import create_backbone, create_classifier, create_model
from maskwright.models.backbones import import_timm
from maskwright.models.classifier import load_classifier
from maskwright.models.folding import inference_copy
from maskwright.models.probe import is_signed
from maskwright.settings import Recipe
from maskwright.weak.networks.classifier import next_network

torch.set_num_threads(1)
VIT = {"depth": 3, "embed_dim": 32, "num_heads": 2}
SWIN = {"depths": (1, 1, 1, 1), "embed_dim": 16, "num_heads": (1, 2, 4, 8)}

# Options; whether the map may be negative; output strides beside the network's own.
FAMILIES = {
    "resnet10t": ({}, False, (8, 16)),
    "resnext26ts": ({}, True, (8, 16)),  # ends in a SiLU
    "resnext50_32x4d": ({}, False, (8, 16)),
    "densenet121": ({}, False, ()),
    "regnety_002": ({}, False, (8, 16)),
    "efficientnet_b0": ({}, True, (8, 16)),
    "tf_efficientnet_lite0": ({}, False, (8, 16)),
    "mobilenetv2_050": ({}, False, (8, 16)),
    "mobilenetv3_small_050": ({}, True, (8, 16)),
    "convnext_atto": ({}, True, (8, 16)),
    "swin_tiny_patch4_window7_224": (SWIN, True, ()),
    "vit_tiny_patch16_224": (VIT, True, ()),
    "vit_small_patch14_reg4_dinov2": (VIT, True, ()),
    "vit_small_patch16_dinov3": (VIT, True, ()),
    "vit_base_patch16_clip_224": (VIT, True, ()),
    "hrnet_w18_small": ({}, False, ()),
    "xception41": ({}, False, (8, 16)),
}
# The norm between pooling and classifier, where there is one: it is no part of the map.
NORM_AFTER = {"convnext_atto"}
FROM_A_TOKEN = {name for name in FAMILIES if name.startswith("vit")}


def trained_looking(network):
    """The same network for the same names, with a norm and a position table of its own at every place."""
    generator = torch.Generator().manual_seed(1)
    for value in network.state_dict().values():
        if value.dtype.is_floating_point and value.ndim < 2:
            value.mul_(0.9).add_(0.1 * torch.rand(value.shape, generator=generator))
    return network.eval()


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """Name, timm's own network, and the backbone with its weights, read from a file."""
    torch.manual_seed(0)
    name, options = request.param, FAMILIES[request.param][0]
    any_size = {"vit": {"dynamic_img_size": True}, "swin": {"strict_img_size": False}}.get(name.partition("_")[0], {})
    classes = 0 if "dino" in name else 5  # files of these have no classifier
    own = trained_looking(import_timm().create_model(name, num_classes=classes, **options, **any_size))
    return name, own, options


@pytest.fixture(scope="module")
def backbone(family, tmp_path_factory):
    name, own, options = family
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(own.state_dict(), path)
    return create_backbone(name, pretrained=str(path), pooled=True, **options).eval()


def images(height, width):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(3))


def own_map(own, found, size):
    """`forward_features` of timm's network as `(B, D, h, w)`."""
    if found.ndim == 3:
        return found[:, own.num_prefix_tokens :].transpose(1, 2).reshape(len(found), -1, *size)
    return found.permute(0, 3, 1, 2) if getattr(own, "output_fmt", "NCHW") == "NHWC" else found


@torch.no_grad()
def test_it_is_timms_own_and_its_mean_gives_timms_own_logits(family, backbone):
    name, own, _ = family
    given = images(*2 * [70 if "patch14" in name else 64])
    last, expected = backbone(given)[-1], own.forward_features(given)
    assert torch.equal(last, own_map(own, expected, last.shape[2:]))
    assert last.shape[1] == backbone.channels[-1] == own.num_features
    if name in FROM_A_TOKEN:
        return
    pooled = last.mean((2, 3))
    head = getattr(own, "head", None)
    if name in NORM_AFTER:
        pooled = head.norm(pooled[:, :, None, None])[:, :, 0, 0]
    if "mobilenetv3" in name:  # further layers after pooling
        pooled = own.act2(own.conv_head(pooled[:, :, None, None])).flatten(1)
    layer = own.get_classifier()
    torch.testing.assert_close(layer(pooled), own(given), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_maps_of_any_size_and_stride(family):
    name, _, options = family
    for stride in (None, *FAMILIES[name][2]):
        made = create_backbone(name, pooled=True, output_stride=stride, **options).eval()
        assert stride in (None, made.strides[-1])
        for height, width in ((65, 97), (64, 33)):
            found = [tuple(feature.shape[1:]) for feature in made(images(height, width))]
            pairs = zip(made.channels, made.strides, strict=True)
            assert found == [(channels, -(-height // side), -(-width // side)) for channels, side in pairs]


def test_whether_it_can_be_negative_is_known(family, backbone):
    name, _, options = family
    signed = FAMILIES[name][1]
    with torch.no_grad():
        assert (backbone(images(64, 64))[-1] < 0).any() == signed, "by trial"
    assert is_signed(backbone) == signed
    with torch.device("meta"):
        network = create_classifier(backbone=name, num_tags=2, output_stride=None, **options)
    assert network.signed_map == signed


@pytest.mark.parametrize(("name", "options"), [("resnet38", {"width": 1 / 16}), ("vgg16", {"width": 1 / 16})])
def test_ours_end_in_a_relu(name, options):
    training = create_backbone(name, **options)
    assert training.training
    assert not is_signed(training)
    assert training.training, "looking changes nothing"


def test_a_weight_without_gradient_is_not_trained(family):
    name, _, options = family
    network = create_classifier(backbone=name, num_tags=2, output_stride=None, **options)
    network(images(64, 64)).sum().backward()
    assert [key for key, value in network.named_parameters() if value.grad is None] == []


def test_a_resnet_is_as_before():
    """Names, first weights and every map; the image-tag papers' dilations too."""
    for options in ({}, {"output_stride": 16, "dilate": False}, {"output_stride": 8, "dilations": (1, 1, 2, 2)}):
        made = []
        for pooled in (False, True):
            torch.manual_seed(0)
            made.append(create_backbone("resnet10t", pooled=pooled, **options).eval())
        before, now = (backbone.state_dict() for backbone in made)
        assert list(before) == list(now)
        assert all(torch.equal(before[key], now[key]) for key in before)
        with torch.no_grad():
            pairs = zip(*(backbone(images(65, 97)) for backbone in made), strict=True)
            assert all(torch.equal(one, other) for one, other in pairs)
        names = [[(name, stride) for name, _, stride in backbone.chain()] for backbone in made]
        assert names[0] == names[1]


@torch.no_grad()
def test_a_segmenter_takes_the_weights_of_either_form(family, backbone, tmp_path):
    """The last modules of the whole network are no part of a segmenter's, which has timm's feature maps."""
    name, _, options = family
    save_file({f"backbone.{key}": value for key, value in backbone.state_dict().items()}, tmp_path / "m.safetensors")
    path = str(tmp_path / "m.safetensors")
    features = create_model("fcn", backbone=name, num_classes=3, pretrained=path, backbone_options=options).backbone
    given = images(64, 64)
    found, expected = features.eval()(given), backbone(given)
    if "hrnet" not in name:  # whose branches are widened in the whole network
        assert all(torch.equal(one, other) for one, other in zip(found[:-1], expected[:-1], strict=True))
    assert torch.equal(found[0], expected[0])
    again = create_backbone(name, pretrained=path, pooled=True, **options).eval()
    assert torch.equal(again(given)[-1], expected[-1])


def test_weights_of_another_network_are_refused(tmp_path):
    def saved(name, pooled):
        network = create_backbone(name, pooled=pooled)
        path = tmp_path / f"{name}.safetensors"
        save_file({f"backbone.{key}": value for key, value in network.state_dict().items()}, path)
        return str(path)

    with pytest.raises(RecipeError, match=r"(?s)is another one.*layer4\.2"):
        create_backbone("resnet18", pretrained=saved("resnet34", True))
    with pytest.raises(RecipeError, match="is another one"):
        create_backbone("convnext_atto", pretrained=saved("convnext_femto", True))
    with pytest.raises(RecipeError, match=r"(?s)is another one.*conv_head"):
        create_backbone("mobilenetv2_050", pooled=True, pretrained=saved("mobilenetv2_050", False))


def test_a_segmenter_may_read_it_too():
    model = create_model("fcn", backbone="mobilenetv2_050", num_classes=3, backbone_options={"pooled": True}).eval()
    assert model.backbone.channels[-1] == 1280
    assert model(images(65, 97)).shape == (2, 3, 65, 97)


def saved_classifier(path, network, **changes):
    made = {"backbone": network.backbone.name, "output_stride": None, "options": {}, "num_tags": 2, **changes}
    labels = LabelSpace(("background", "a", "b"))
    save_model(path, network, describe("classifier", made, network, labels, Recipe()))
    return path


@torch.no_grad()
@pytest.mark.parametrize("name", ["mobilenetv2_050", "swin_tiny_patch4_window7_224", "resnet10t"])
def test_model_files_say_which_map_and_old_ones_keep_theirs(tmp_path, name):
    options = FAMILIES[name][0]
    make = {"backbone": name, "num_tags": 2, "output_stride": None, **options}
    old, new = create_classifier(**make, pooled=False).eval(), create_classifier(**make).eval()
    for network, changes in ((old, {}), (new, {"pooled": True})):
        path = saved_classifier(tmp_path / f"{len(changes)}", network, options=options, **changes)
        loaded = load_classifier(path)
        assert torch.equal(loaded(images(64, 64)), network(images(64, 64)))
        recipe = Recipe.model_validate({"classifier": {"backbone": name, "output_stride": None, "options": options}})
        following = next_network(recipe, path, 2, recam_head=True).eval()
        assert torch.equal(following(images(64, 64)), network(images(64, 64)))
    if name != "resnet10t":
        mixed = saved_classifier(tmp_path / "mixed", old, options=options, pooled=True)
        with pytest.raises(DataError, match="is missing"):
            load_classifier(mixed)


def test_what_pools_no_map_is_refused():
    with pytest.raises(RecipeError, match=r"do not lie on grids.*options=\{pooled: false\}"):
        create_classifier(backbone="coat_tiny", num_tags=2, output_stride=None)
    create_classifier(backbone="coat_tiny", num_tags=2, output_stride=None, pooled=False)


LAYOUTS = ("tf_efficientnet_lite0", "mobilenetv3_small_050", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224")


@torch.no_grad()
@pytest.mark.parametrize("name", LAYOUTS)
def test_folding_layouts_and_precisions(name):
    options = FAMILIES[name][0]
    network = trained_looking(create_classifier(backbone=name, num_tags=4, output_stride=None, **options))
    network.classifier.weight.mul_(10)
    given = images(64, 96)
    expected = network(given)
    scale = expected.abs().max().item()
    torch.testing.assert_close(inference_copy(network)(given), expected, rtol=0, atol=1e-3 * scale)
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(given), expected, rtol=0, atol=1e-3 * scale)
    with torch.autocast("cpu", torch.bfloat16):
        assert (network(given).float() - expected).abs().max() < 0.1 * scale
    torch.testing.assert_close(network.double()(given.double()).float(), expected, rtol=0, atol=1e-3 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LAYOUTS, "convnext_atto", "resnet10t", "hrnet_w18_small"])
def test_compiles(name):
    torch.compiler.reset()
    network = create_classifier(backbone=name, num_tags=4, output_stride=None, **FAMILIES[name][0]).eval()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images(65, 64)), network(images(65, 64)), rtol=1e-3, atol=1e-4)
