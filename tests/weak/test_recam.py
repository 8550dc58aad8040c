"""ReCAM: the loss against its definition, what is held in memory, the training, and the weight options."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from maskwright.data.scenes import scenes
from maskwright.engine.checkpoint import load_metadata, load_weights
from maskwright.errors import DataError, RecipeError
from maskwright.models import create_classifier
from maskwright.models.classifier import load_classifier
from maskwright.pipeline.stages import recipe_stages
from maskwright.recipe.load import build_recipe
from maskwright.runs.context import RunContext
from maskwright.weak.networks import NETWORKS
from maskwright.weak.networks.classifier import build_classifier, train_classifier
from maskwright.weak.networks.recam import class_features, first_head_loss, recam_loss, recam_maps, sce_loss, soft_masks
from maskwright.weak.networks.recam_training import train_recam
from maskwright.weak.seeds.cam import class_activation_maps
from maskwright.weak.seeds.classes import WEIGHT_OPTIONS, class_weight, network_weight, positive_classes

from .contract import picture, trained_like, views_of

TAGS = torch.tensor([[0, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.float64)


def example(tags=TAGS, channels=4, size=(3, 5), dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=dtype)  # noqa: E731
    batch, classes = tags.shape
    values = draw(batch, channels, *size).relu(), draw(classes, channels), draw(classes, channels)
    return [value.requires_grad_() for value in values]


def literal(features, w1, w2, tags, lam):
    """Image by image and class by class, with the broadcast product of the definition."""
    bce = F.binary_cross_entropy_with_logits(features.mean((2, 3)) @ w1.T, tags)
    sce = 0
    for image, shown in zip(features, tags, strict=True):
        losses = []
        for k in shown.nonzero().flatten().tolist():
            mask = (w1[k][:, None, None] * image).sum(0).relu()
            mask = mask / (mask.max() + 1e-5)
            z = w2 @ (mask * image).mean((1, 2))
            losses.append(F.cross_entropy(z[None], torch.tensor([k])))
        sce = sce + (sum(losses) / len(losses) if losses else 0)
    return bce + lam * sce / len(tags)


@pytest.mark.parametrize("lam", [1.0, 0.1])
def test_loss_and_gradients_are_those_of_the_definition(lam):
    inputs = example()
    value, parts = recam_loss(*inputs, TAGS, lam)
    expected = literal(*inputs, TAGS, lam)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts["tags"] + lam * parts["sce"], value.detach())
    for found, other in zip(torch.autograd.grad(value, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(found, other, rtol=1e-10, atol=1e-12)


def test_gradcheck_also_through_the_maximum():
    inputs = example(size=(2, 3))
    assert torch.autograd.gradcheck(lambda *values: recam_loss(*values, TAGS, 0.7)[0], inputs)


def test_positive_classes():
    assert positive_classes(TAGS).tolist() == [[1, 3, 4], [-1, -1, -1], [0, -1, -1]]
    assert positive_classes(TAGS[1:2]).shape == (1, 0)
    assert positive_classes(torch.ones(2, 3)).tolist() == [[0, 1, 2]] * 2


def test_class_features_are_means_over_all_positions():
    features, masks = torch.rand(2, 4, 3, 5), torch.rand(2, 3, 3, 5)
    expected = (masks[:, :, None] * features[:, None]).mean((3, 4))
    torch.testing.assert_close(class_features(features, masks), expected)
    torch.testing.assert_close(class_features(features, masks[:, :1]), expected[:, :1])


def test_soft_masks_reach_one_and_zeros_stay_zeros():
    features, weight = torch.rand(1, 4, 3, 5), torch.stack([torch.ones(4), -torch.ones(4)])
    masks = soft_masks(features, weight, torch.tensor([[0, 1]]))
    assert 1 - 1e-4 < masks[0, 0].max() < 1
    assert torch.equal(masks[0, 1], torch.zeros(3, 5))


def test_images_without_tags_add_nothing_and_count():
    logits, classes = torch.randn(2, 3, 5), torch.tensor([[1, 3, 4], [0, -1, -1]])
    alone = sce_loss(logits, classes)
    more = sce_loss(torch.cat([logits, torch.randn(2, 3, 5)]), torch.cat([classes, torch.full((2, 3), -1)]))
    torch.testing.assert_close(more, alone / 2)


def test_a_batch_without_any_tag_still_reaches_every_weight():
    features, w1, w2 = example(torch.zeros(2, 5))
    value, parts = recam_loss(features, w1, w2, torch.zeros(2, 5, dtype=torch.float64))
    assert parts["sce"] == parts["second_accuracy"] == 0
    gradients = torch.autograd.grad(value, (features, w1, w2))
    assert (gradients[2] == 0).all()
    assert gradients[1].abs().sum() > 0


def test_masks_of_another_seed_method_take_the_place_of_its_own():
    features, w1, w2 = example()
    own = soft_masks(features, w1, torch.arange(5).expand(3, -1))
    value, _ = recam_loss(features, w1, w2, TAGS)
    torch.testing.assert_close(recam_loss(features, w1, w2, TAGS, masks=own)[0], value)
    detached = recam_loss(features, w1, w2, TAGS, masks=own.detach())[0]
    torch.testing.assert_close(detached, value)
    assert not torch.allclose(torch.autograd.grad(detached, w1)[0], torch.autograd.grad(value, w1)[0])
    other = recam_loss(features, w1, w2, TAGS, masks=torch.rand(3, 5, 3, 5, dtype=torch.float64))[0]
    assert abs(other - value) > 1e-6


def test_second_accuracy():
    features = torch.eye(3).reshape(1, 3, 1, 3)
    tags = torch.tensor([[1.0, 1.0, 0.0]])
    _, parts = recam_loss(features, torch.eye(3), torch.eye(3), tags)
    assert parts["second_accuracy"] == 1
    _, parts = recam_loss(features, torch.eye(3), torch.tensor([[1.0, 1, 0], [0, 0, 0], [0, 0, 1]]), tags)
    assert parts["second_accuracy"] == 0.5


class Largest(TorchDispatchMode):
    """Notes the largest result of any operation, backward passes included."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def test_nothing_larger_than_the_features_is_ever_made():
    tags = torch.ones(2, 6)
    inputs = example(tags, channels=16, size=(8, 8), dtype=torch.float32)
    with Largest() as seen:
        recam_loss(*inputs, tags)[0].backward()
    assert seen.elements == inputs[0].numel()
    with Largest() as seen:
        literal_product = soft_masks(inputs[0], inputs[1], positive_classes(tags))[:, :, None] * inputs[0][:, None]
        assert literal_product.shape == (2, 6, 16, 8, 8)
    assert seen.elements == 6 * inputs[0].numel()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_autocast_and_memory_format(layout):
    features, w1, w2 = example(TAGS, 8, (4, 6), torch.float32)
    expected, _ = recam_loss(features, w1, w2, TAGS.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, _ = recam_loss(features.to(memory_format=layout), w1, w2, TAGS.float())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=0.03, atol=0.03)


def test_first_head_losses():
    logits = torch.randn(3, 5, dtype=torch.float64)
    bce = F.binary_cross_entropy_with_logits(logits, TAGS, reduction="none").mean(1)
    log = logits.log_softmax(1)
    sce = torch.stack([-(log[0, 1] + log[0, 3] + log[0, 4]) / 3, torch.zeros(()), -log[2, 0]])
    torch.testing.assert_close(first_head_loss(logits, TAGS, "bce"), bce.mean())
    torch.testing.assert_close(first_head_loss(logits, TAGS, "sce"), sce.mean())
    single = torch.stack([bce[0], bce[1], sce[2]])
    torch.testing.assert_close(first_head_loss(logits, TAGS, "sce_single"), single.mean())


@pytest.mark.parametrize("kind", ["bce", "sce", "sce_single"])
def test_the_classifier_trains_with_the_loss_asked_for(kind):
    labels = scenes("train", count=2, size=(64, 64)).labels
    network, step = build_classifier(build_recipe({"classifier": {"backbone": "resnet10t", "loss": kind}}), labels)
    count = len(labels.foreground)
    batch = {"image": torch.zeros(3, 3, 64, 64, dtype=torch.uint8), "tags": torch.eye(count)[:3]}
    batch["tags"][1, 2] = 1
    network.eval()
    value, _ = step(lambda images: torch.ones(3, 1) * torch.arange(float(count)), batch)
    expected = first_head_loss(torch.ones(3, 1) * torch.arange(float(count)), batch["tags"], kind)
    torch.testing.assert_close(value, expected)


def test_weight_options():
    w1, w2 = torch.randn(3, 4), torch.randn(3, 4)
    expected = {"w1": w1, "w2": w2, "sum": w1 + w2, "product": w1 * w2}
    for option, weight in expected.items():
        assert torch.equal(class_weight(w1, w2, option), weight)
    w1, w2 = torch.tensor([[2.0, -2, 2, -2, 0]]), torch.tensor([[3.0, -3, -3, 3, -3]])
    assert class_weight(w1, w2, "agree").tolist() == class_weight(w2, w1, "agree").tolist() == [[6, -6, 0, 0, 0]]
    assert set(WEIGHT_OPTIONS) == {*expected, "agree"}
    with pytest.raises(RecipeError, match="Did you mean 'product'"):
        class_weight(w1, w2, "produkt")


def test_seed_method_uses_the_weight_asked_for():
    network = trained_like("resnet10t")
    views = views_of([picture()], [(0, 2)])
    assert NETWORKS["recam"].maps.maps is recam_maps
    found = {option: recam_maps(network, views, weight=option)[0].high_res for option in WEIGHT_OPTIONS}
    assert torch.equal(found["w1"], class_activation_maps(network, views)[0].high_res)
    assert torch.equal(found["product"], recam_maps(network, views)[0].high_res)
    for option, maps in found.items():
        weight = class_weight(network.classifier.weight, network.recam_head.weight, option)
        assert torch.equal(maps, class_activation_maps(network, views, weight=weight)[0].high_res)
    assert not torch.equal(found["w2"], found["sum"])


def test_without_a_second_head_only_the_first_can_be_asked_for():
    network = create_classifier(backbone="resnet10t", num_tags=2)
    assert network_weight(network, "w1") is network.classifier.weight
    with pytest.raises(RecipeError, match="recipe that has `recam`"):
        network_weight(network, "product")
    with pytest.raises(RecipeError, match="Did you mean 'product'"):
        network_weight(network, "produkt")


CHAIN = {"networks": ["classifier", "recam"]}


def recipe(**recam):
    train = {"steps": 2, "batch_size": 4, "lr": 0.01, "workers": 0, "augment": {"crop": [64, 64]}}
    second = {"steps": 2, "batch_size": 4, "workers": 0, "augment": {"crop": [64, 64]}, **recam.pop("train", {})}
    return build_recipe(
        {
            "classifier": {"backbone": "resnet10t", "train": train},
            **CHAIN,
            "recam": {"train": second, **recam},
            "data": {"root": "scenes"},
        }
    )


@pytest.fixture(scope="module")
def converged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    data = scenes("train", count=8, size=(64, 64))
    train_classifier(r := recipe(), r.classifier, None, data, data, folder, torch.device("cpu"))
    return data, folder / "model.safetensors"


def test_training_goes_on_from_the_classifier_and_leaves_both_heads(converged, tmp_path):
    data, start = converged
    result = train_recam(r := recipe(), r.recam, start, data, data, tmp_path, torch.device("cpu"))
    assert set(result["train"]) >= {"loss", "tags", "sce", "second_accuracy"}
    path = tmp_path / "model.safetensors"
    before, after = load_weights(start), load_weights(path)
    assert set(after) - set(before) == {"recam_head.weight"}
    for name in ("classifier.weight", "backbone.network.conv1.0.weight"):
        moved = (after[name] - before[name]).abs().max()
        assert 0 < moved < 0.1 * before[name].abs().max(), name  # a tenth of the new head's rate
    buffers = [name for name in before if "running" in name]
    assert all(torch.equal(before[name], after[name]) for name in buffers)  # statistics are kept by default
    network = load_classifier(path)
    assert torch.equal(network.recam_head.weight, after["recam_head.weight"])
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, len(data.labels.foreground))
    assert load_metadata(path)["model"]["recam_head"] is True
    assert load_classifier(start).recam_head is None


def test_the_weight_of_its_loss_is_what_is_trained_with(converged, tmp_path):
    """Twice the loss moves the new head about twice as far: one step of plain descent, from the same start."""
    data, start = converged
    train = {"steps": 1, "lr": 1.0, "momentum": 0, "weight_decay": 0}
    heads = {}
    for name, lam in {"none": 0.0, "half": 0.5, "one": 1.0}.items():
        r = recipe(train=dict(train), sce_weight=lam)
        train_recam(r, r.recam, start, data, data, tmp_path / name, torch.device("cpu"))
        heads[name] = load_weights(tmp_path / name / "model.safetensors")["recam_head.weight"]
    half, one = heads["half"] - heads["none"], heads["one"] - heads["none"]
    assert half.abs().max() > 0
    torch.testing.assert_close(one, 2 * half, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


def test_rates_of_the_old_and_the_new_part(converged, tmp_path, monkeypatch):
    import maskwright.weak.networks.recam_training as module

    data, start = converged
    found = {}
    monkeypatch.setattr(module, "fit_tags", lambda network, *_, parameter_groups, **__: found.update(
        {id(p): group["lr"] for group in parameter_groups for p in group["params"]}, network=network))  # fmt: skip
    train_recam(r := recipe(), r.recam, start, data, data, tmp_path, torch.device("cpu"))
    network = found.pop("network")
    rates = {name: found[id(p)] for name, p in network.named_parameters()}
    assert rates.pop("recam_head.weight") == 5e-4
    assert list(rates.values()) == pytest.approx([5e-5] * len(rates))


def test_masks_given_to_the_training_are_used(converged, tmp_path):
    data, start = converged
    calls = []

    def masks(network, images, features, tags):
        calls.append((images.shape, features.shape, tags.shape))
        return features.new_ones(len(features), tags.shape[1], *features.shape[2:])

    train_recam(r := recipe(lam=0.5), r.recam, start, data, data, tmp_path, torch.device("cpu"), masks=masks)
    count = len(data.labels.foreground)
    assert calls == [((4, 3, 64, 64), (4, 512, 4, 4), (4, count))] * 2


def test_finished_training_is_not_repeated(converged, tmp_path):
    data, start = converged
    whole = train_recam(r := recipe(), r.recam, start, data, data, tmp_path / "a", torch.device("cpu"))
    again = train_recam(r := recipe(), r.recam, start, data, data, tmp_path / "a", torch.device("cpu"))
    assert again == json.loads(json.dumps(whole))


def test_another_classifier_is_refused(converged, tmp_path):
    data, start = converged
    other = recipe()
    other.classifier.backbone = "resnet18"
    with pytest.raises(DataError, match="made with another model"):
        train_recam(other, other.recam, start, data, data, tmp_path, torch.device("cpu"))
    with pytest.raises(RecipeError, match="starts from a trained network"):
        train_recam(r := recipe(), r.recam, None, data, data, tmp_path, torch.device("cpu"))


def test_the_papers_settings_are_the_default():
    settings = build_recipe({**CHAIN, "recam": {"train": {"batch_size": 8}}}).recam
    assert settings.sce_weight == 1
    train = settings.train
    assert (train.epochs, train.lr, train.backbone_lr, train.momentum, train.batch_size) == (4, 5e-4, 0.1, 1e-4, 8)
    assert train.freeze_batchnorm
    with pytest.raises(RecipeError, match="class_uniform"):
        build_recipe({**CHAIN, "recam": {"train": {"augment": {"class_uniform": 0.5}}}})


def test_the_stage_stands_between_classifier_and_seeds(tmp_path):
    fields = {"supervision": "tags", "data": {"root": "scenes", "options": {"count": 2, "size": [64, 64]}}}
    for chain in (["classifier"], ["classifier", "recam"]):
        stages = {
            s.name: s for s in recipe_stages(RunContext(build_recipe({**fields, "networks": chain}), tmp_path, print))
        }
        assert list(stages)[: len(chain) + 1] == [*chain, "seeds"]
        assert stages["seeds"].needs == (chain[-1],)
    assert stages["recam"].needs == ("classifier",)
    job = RunContext(build_recipe({**fields, **CHAIN, "recam": {"lam": 0.1}}), tmp_path, print)
    other = {stage.name: stage for stage in recipe_stages(job)}
    assert stages["recam"].settings != other["recam"].settings
    assert stages["classifier"].settings == other["classifier"].settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds": {"method": "recam"}}, r"write networks=\[classifier, recam\]"),
        ({"recam": {"lam": 0.1}}, "add recam to networks"),
        ({"irn": {"beta": 5}}, "add irn to refine"),
        ({"networks": []}, "networks is empty"),
        ({"networks": ["recam"]}, "starts from a trained network"),
        ({"networks": ["recam", "classifier"]}, "classifier first"),
        ({"networks": ["classifier", "recam", "recam"]}, "each once"),
    ],
)
def test_words_that_do_not_go_together(fields, message):
    with pytest.raises(RecipeError, match=message):
        build_recipe(fields)


@pytest.mark.distributed
@pytest.mark.parametrize("tagged", [True, False])
def test_every_weight_gets_its_gradient_where_the_network_is_wrapped(tmp_path, tagged):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        network = create_classifier(backbone="resnet10t", num_tags=3, recam_head=True)
        network.eval()
        wrapped = nn.parallel.DistributedDataParallel(network)
        tags = torch.eye(3)[:2] * tagged
        for _ in range(2):  # the second pass fails where the first left a gradient out
            network.zero_grad()
            features = wrapped(torch.randn(2, 3, 32, 32), features=True)
            recam_loss(features, network.classifier.weight, network.recam_head.weight, tags)[0].backward()
        assert all(p.grad is not None for p in network.parameters())
    finally:
        torch.distributed.destroy_process_group()
