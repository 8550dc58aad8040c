import pytest
import torch

from maskwright.errors import DataError, RecipeError
from maskwright.models import create_backbone, create_classifier, multiply_adds
from maskwright.models.classifier import load_classifier

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return create_classifier(backbone="resnet18", num_tags=4).eval()


@torch.no_grad()
def test_shapes(classifier):
    images = torch.randn(2, 3, 65, 97)
    features = classifier.features(images)
    assert features.shape == (2, 512, 5, 7)
    assert classifier(images).shape == (2, 4)
    assert classifier.class_maps(features).shape == (2, 4, 5, 7)
    assert classifier.classifier.bias is None
    assert classifier.mean == (0.485, 0.456, 0.406)


@torch.no_grad()
def test_mean_of_the_class_maps_is_the_logits(classifier):
    images = torch.randn(2, 3, 64, 64)
    maps = classifier.class_maps(classifier.features(images))
    assert (maps < 0).any(), "no ReLU"
    torch.testing.assert_close(maps.mean((2, 3)), classifier(images), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_class_maps_take_another_weight(classifier):
    features = torch.randn(2, 512, 3, 4)
    weight = torch.randn(4, 512)
    expected = torch.einsum("kd,bdhw->bkhw", weight, features)
    torch.testing.assert_close(classifier.class_maps(features, weight), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        classifier.class_maps(features, weight[:, :, None, None]), expected, rtol=1e-4, atol=1e-4
    )
    own = classifier.classifier.weight
    assert torch.equal(classifier.class_maps(features, own), classifier.class_maps(features))


def dilations(network):
    return {name: layer.dilation for name, layer in network.named_modules() if isinstance(layer, torch.nn.Conv2d)}


@pytest.mark.parametrize(
    ("output_stride", "trunk"),
    [(16, {"output_stride": 16, "dilate": False}), (8, {"output_stride": 8, "dilations": (1, 1, 2, 2)})],
)
def test_trunk_is_the_papers(output_stride, trunk):
    made = create_classifier(backbone="resnet18", num_tags=1, output_stride=output_stride)
    assert dilations(made.backbone) == dilations(create_backbone("resnet18", **trunk))


def frozen(model):
    return {name.split(".")[2] for name, value in model.named_parameters() if not value.requires_grad}


def test_stem_is_frozen_where_weights_are_pretrained(tmp_path, classifier):
    torch.save(
        {key: value for key, value in classifier.backbone.network.state_dict().items()}, tmp_path / "weights.pth"
    )
    make = {"backbone": "resnet18", "num_tags": 2}
    assert frozen(create_classifier(**make)) == set()
    assert frozen(create_classifier(**make, pretrained=str(tmp_path / "weights.pth"))) == {"conv1", "bn1"}
    assert frozen(create_classifier(**make, pretrained=str(tmp_path / "weights.pth"), freeze_stem=False)) == set()
    assert frozen(create_classifier(**make, freeze_stem=True)) == {"conv1", "bn1"}


@pytest.mark.parametrize("output_stride", [16, 8])
def test_stop_grad_after_layer2(output_stride):
    model = create_classifier(backbone="resnet18", num_tags=2, output_stride=output_stride, stop_grad_after_layer2=True)
    assert frozen(model) == {"conv1", "bn1", "layer1", "layer2"}
    images = torch.randn(2, 3, 64, 64, requires_grad=True)
    model(images).sum().backward()
    assert all((value.grad is None) != value.requires_grad for value in model.parameters())
    assert images.grad.abs().sum() > 0, "attribution still reaches the image"


def test_freezing_what_is_not_known_is_refused():
    with pytest.raises(RecipeError, match="has no stem that could be frozen"):
        create_classifier(backbone="mobilenetv3_small_050", num_tags=2, freeze_stem=True)
    with pytest.raises(RecipeError, match="cannot be frozen up to stride 8"):
        create_classifier(backbone="mobilenetv3_small_050", num_tags=2, stop_grad_after_layer2=True)


def test_hrnet_trains_no_weight_without_gradient():
    model = create_classifier(backbone="hrnet_w18_small", num_tags=2, output_stride=None)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None] == []


def test_load_classifier(tmp_path, classifier):
    from maskwright.data.sample import LabelSpace
    from maskwright.engine.checkpoint import describe, save_model
    from maskwright.settings import Recipe

    made = {"backbone": "resnet18", "output_stride": 16, "options": {"dilate": False}, "num_tags": 4}
    labels = LabelSpace(("background", "a", "b", "c", "d"))
    save_model(tmp_path / "model.safetensors", classifier, describe("classifier", made, classifier, labels, Recipe()))
    loaded = load_classifier(tmp_path / "model.safetensors")
    assert not loaded.training
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images), classifier(images))
    described = describe("segmenter", made, classifier, labels, Recipe())
    save_model(tmp_path / "other.safetensors", classifier, described)
    with pytest.raises(DataError, match="holds a segmenter, expected a classifier"):
        load_classifier(tmp_path / "other.safetensors")


def test_operations_of_a_convolution():
    network = torch.nn.Conv2d(3, 8, 3, padding=1)
    assert multiply_adds(network, (16, 20)) == 3 * 8 * 9 * 16 * 20
