from typing import ClassVar

import pytest
import torch

from maskwright.data.sample import LabelSpace
from maskwright.errors import DataError, RecipeError
from maskwright.losses import create_loss
from maskwright.models import create_model
from maskwright.models.layers import resize
from maskwright.models.multiscale_attention import AttentionHead, combine_scales, combine_two_scales
from maskwright.settings import LossSettings

from .contract import ModelContract, backbone  # noqa: F401

SMALL = {"channels": 16, "key_channels": 8, "attention_channels": 8}


class TestHierarchicalAttention(ModelContract):
    name = "hmsa"
    options: ClassVar = SMALL
    auxiliary = ("aux", "scale.0.5", "scale.1", "attention.0.5")
    # At scale 0.5 the coarsest map of 64 pixels would be a single value, which has no batch statistics.
    one_image_size = (128, 128)


def small(**options):
    torch.manual_seed(0)
    return create_model("hmsa", num_classes=3, output_stride=16, **SMALL, **options)


def maps(seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = {0.25: (3, 4), 0.5: (6, 8), 1.0: (12, 16), 2.0: (24, 32)}
    logits = {scale: torch.randn(2, 5, *size, generator=generator) for scale, size in sizes.items()}
    attentions = {scale: torch.rand(2, 1, *size, generator=generator) for scale, size in sizes.items()}
    return logits, attentions


def test_attention_of_zero_and_one_chooses_a_scale():
    logits, _ = maps()
    low, high = logits[0.5], logits[1.0]
    zero, one = torch.zeros(2, 1, 6, 8), torch.ones(2, 1, 6, 8)
    torch.testing.assert_close(combine_two_scales(low, zero, high), high)
    torch.testing.assert_close(combine_two_scales(low, one, high), resize(low, (12, 16)))


def test_the_product_is_resized_not_its_factors():
    logits, attentions = maps()
    size = (12, 16)
    found = combine_two_scales(logits[0.5], attentions[0.5], logits[1.0])
    weight = resize(attentions[0.5], size)
    torch.testing.assert_close(found, resize(attentions[0.5] * logits[0.5], size) + (1 - weight) * logits[1.0])
    assert not torch.allclose(found, weight * resize(logits[0.5], size) + (1 - weight) * logits[1.0])


def test_chain_of_four_scales():
    logits, attentions = maps()
    joint = attentions[1.0] * logits[1.0] + (1 - attentions[1.0]) * resize(logits[2.0], (12, 16))
    joint = combine_two_scales(logits[0.5], attentions[0.5], joint)
    joint = combine_two_scales(logits[0.25], attentions[0.25], joint)
    torch.testing.assert_close(combine_scales(logits, attentions), joint)


def test_scale_one_alone_is_itself():
    logits, _ = maps()
    assert torch.equal(combine_scales({1.0: logits[1.0]}, {}), logits[1.0])


@pytest.mark.parametrize("missing", [1.0, 0.5])
def test_missing_maps_are_named(missing):
    logits, attentions = maps()
    (logits if missing == 1.0 else attentions).pop(missing)
    with pytest.raises(DataError, match=r"logits at scale 1 and an attention at every scale but the largest"):
        combine_scales(logits, attentions)


def test_attention_head_starts_at_one_half():
    found = AttentionHead(16, 8).eval()(torch.randn(2, 16, 5, 6))
    assert found.shape == (2, 1, 5, 6)
    assert ((found > 0.4) & (found < 0.6)).all()


def test_outputs_are_what_two_passes_and_the_formula_give():
    model = small().eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        outputs = model(images, auxiliary=True, upsample=False)
        single = {}
        for scale, scaled in ((1.0, images), (0.5, resize(images, (32, 48)))):
            features = model.backbone(scaled)
            single[scale] = model.head(features, scaled.shape[-2:])
        attention = model.attention(single[0.5]["features"])
    for name in ("logits", "aux"):
        expected = combine_two_scales(single[0.5][name], attention, single[1.0][name])
        torch.testing.assert_close(outputs[name], expected)
    torch.testing.assert_close(outputs["scale.0.5"], single[0.5]["logits"])
    torch.testing.assert_close(outputs["scale.1"], single[1.0]["logits"])
    torch.testing.assert_close(outputs["attention.0.5"], attention)


def test_full_size_combines_after_resizing():
    model, other = small(full_size=True).eval(), small().eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        outputs = model(images, auxiliary=True, upsample=False)
        low = resize(other(images, auxiliary=True)["scale.0.5"], (32, 48))
    assert outputs["logits"].shape[-2:] == outputs["aux"].shape[-2:] == (64, 96)
    torch.testing.assert_close(outputs["scale.0.5"], low)
    torch.testing.assert_close(outputs["logits"], combine_two_scales(low, outputs["attention.0.5"], outputs["scale.1"]))


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 2.0), (0.25, 0.5, 1.0), (1.0, 1.5)])
def test_any_scales_with_one_at_inference(scales):
    model = small(inference_scales=scales).eval()
    with torch.no_grad():
        images = torch.randn(1, 3, 48, 64)
        outputs = model(images, auxiliary=True)
        assert outputs["logits"].shape == (1, 3, 48, 64)
        assert {name for name in outputs if name.startswith("scale")} == {f"scale.{scale:g}" for scale in scales}
        assert torch.equal(model.predict(images), outputs["logits"].argmax(1))
        outputs = model.train()(torch.randn(2, 3, 64, 64), auxiliary=True)
    assert {name for name in outputs if name.startswith("scale")} == {"scale.0.5", "scale.1"}


def test_inference_scales_do_not_change_the_weights():
    assert list(small(inference_scales=(0.5, 1.0, 2.0)).state_dict()) == list(small().state_dict())


def test_one_training_scale_has_no_attention():
    model = small(train_scales=(1.0,))
    assert not any(name.startswith("attention") for name, _ in model.named_parameters())
    assert set(model(torch.randn(2, 3, 64, 64), auxiliary=True)) == {"logits", "aux", "scale.1"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_scales": (0.5,)}, r"train_scales must be .* with 1 among them, found \[0\.5\]"),
        ({"inference_scales": (0.5, 2.0)}, r"inference_scales must be .* found \[0\.5, 2\.0\]"),
        ({"train_scales": (1.0, 1.0)}, "different"),
        ({"train_scales": (0.0, 1.0)}, "positive"),
        ({"train_scales": (1.0,), "inference_scales": (0.5, 1.0)}, "need an attention"),
    ],
)
def test_wrong_scales_are_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        small(**options)


def test_the_papers_objective_trains_everything():
    model = small()
    settings = LossSettings(name="rmi", auxiliary={"aux": 0.4, "scale": 0.05})
    criterion = create_loss(settings, LabelSpace(tuple("abc"), background=None))
    loss, parts = criterion(model(torch.randn(2, 3, 64, 64), auxiliary=True), torch.randint(0, 3, (2, 64, 64)))
    loss.backward()
    torch.testing.assert_close(loss, parts["main"] + 0.4 * parts["aux"] + 0.05 * parts["scale"])
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_auxiliary_heads_read_scale_one():
    model = small(auxiliary={"cpp": [8]}).eval()
    with torch.no_grad():
        outputs = model(torch.randn(1, 3, 64, 64), auxiliary=True)
    assert outputs["cpp.8"].shape == (1, 4, 8, 8)
