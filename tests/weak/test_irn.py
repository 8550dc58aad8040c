"""IRNet's losses, its training stage, edges and refined maps on disk."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from maskwright.data.masks import write_mask
from maskwright.engine.checkpoint import load_metadata, save_model
from maskwright.errors import DataError, RecipeError
from maskwright.models.classifier import create_classifier
from maskwright.models.irnet import create_irnet, infer_edges, load_irnet, merge_edges
from maskwright.settings import MaskSettings, Recipe, TrainSettings
from maskwright.weak.pseudo_masks import write_pseudo_masks
from maskwright.weak.refine.irn import (
    build_irnet,
    extract_edges,
    irn_parameter_groups,
    load_edges,
    mean_displacement,
    refine_folder,
    train_irnet,
)
from maskwright.weak.refine.irn_loss import TERMS, irn_loss, pair_sums
from maskwright.weak.refine.irn_settings import IRNSettings
from maskwright.weak.refine.random_walk import enlarge_walk, random_walk
from maskwright.weak.seeds.extract import load_maps


def outputs(batch=2, shape=(12, 14), seed=0, classes=3):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, 1, *shape, generator=generator, dtype=torch.float64)
    displacements = 3 * torch.randn(batch, 2, *shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (batch, *(-(-side // 4) for side in shape)), generator=generator)
    labels = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, : shape[0], : shape[1]].contiguous()
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = 255
    return logits, displacements, labels


class TestLosses:
    def test_gradients(self):
        logits, displacements, labels = outputs(batch=1, shape=(6, 8))

        def sums(edge_logits, displacements):
            return pair_sums(edge_logits[:, 0].sigmoid(), displacements, labels, 3, radius=3)[0]

        inputs = (logits.requires_grad_(), displacements.requires_grad_())
        assert torch.autograd.gradcheck(sums, inputs, eps=1e-7, atol=1e-5, fast_mode=True)

    def test_by_definition(self):
        logits, displacements, labels = outputs(batch=1, shape=(6, 8))
        edge = logits[0, 0].sigmoid()
        expected = dict.fromkeys(TERMS, 0.0)
        for y in range(6 - 1):
            for x in range(1, 8 - 1):
                for dy, dx in ((0, 1), (1, -1), (1, 0), (1, 1)):  # radius 2
                    i, j = (y, x), (y + dy, x + dx)
                    if labels[0][i] == 255 or labels[0][j] == 255:
                        continue
                    way = [i, j] if dx == 0 or dy == 0 else [i, j, (y, x + dx), (y + 1, x)]
                    affinity = 1 - max(edge[p] for p in way)
                    apart = displacements[0][:, i[0], i[1]] - displacements[0][:, j[0], j[1]]
                    if labels[0][i] != labels[0][j]:
                        expected["neg"] -= float((1 + 1e-5 - affinity).log())
                    elif labels[0][i] == 0:
                        expected["bg_pos"] -= float((affinity + 1e-5).log())
                        expected["dp_bg"] += float(apart.abs().sum())
                    else:
                        expected["fg_pos"] -= float((affinity + 1e-5).log())
                        expected["dp_fg"] += float((apart - torch.tensor([dy, dx])).abs().sum())
        sums, _ = pair_sums(edge[None], displacements, labels, 3, radius=2)
        assert sums.tolist() == pytest.approx([expected[name] for name in TERMS])

    def test_undecided_pixels_have_no_displacement_loss(self):
        logits, displacements, labels = outputs()
        changed = torch.where((labels == 255)[:, None], displacements + 5, displacements)
        assert torch.equal(irn_loss(logits, displacements, labels, 3, radius=5)[0],
                           irn_loss(logits, changed, labels, 3, radius=5)[0])  # fmt: skip

    def test_labels_that_mean_nothing(self):
        logits, displacements, labels = outputs()
        for given in (torch.full_like(labels, 255), torch.full_like(labels, 3)):
            loss, parts = irn_loss(logits.requires_grad_(), displacements, given, 3, radius=4)
            assert loss.item() == 0
            assert set(parts) == set(TERMS)
            loss.backward()
            assert (logits.grad == 0).all()
        # 21 is no constant: class 50 of COCO's 81 counts.
        coco = torch.where(labels == 1, 50, labels)
        assert irn_loss(logits, displacements, coco, 81, radius=4)[1]["fg_pos"] > 0
        assert (
            irn_loss(logits, displacements, coco, 21, radius=4)[1]["neg"]
            != irn_loss(logits, displacements, coco, 81, radius=4)[1]["neg"]
        )

    def test_images_without_any_pair(self):
        loss, _ = irn_loss(*outputs(shape=(4, 30)), 3, radius=5)
        assert loss.item() == 0

    def test_background_of_another_value(self):
        logits, displacements, labels = outputs()
        swapped = torch.where(labels == 255, labels, (labels + 1) % 3)
        torch.testing.assert_close(
            irn_loss(logits, displacements, labels, 3, background=0, radius=4),
            irn_loss(logits, displacements, swapped, 3, background=1, radius=4),
        )
        assert irn_loss(logits, displacements, labels, 3, background=None, radius=4)[1]["bg_pos"] == 0

    def test_half_precision_outputs(self):
        logits, displacements, labels = outputs()
        loss, _ = irn_loss(logits.bfloat16(), displacements.bfloat16(), labels, 3, radius=4)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(irn_loss(logits, displacements, labels, 3, radius=4)[0].item(), rel=0.02)


HALF = """
import sys, torch
from maskwright.engine import distributed
from maskwright.weak.refine.irn_loss import irn_loss
distributed.initialise("cpu")
logits, displacements, labels = torch.load(sys.argv[1])
rank = distributed.rank()
part = slice(0, 1) if rank == 0 else slice(1, None)
factor = torch.ones((), dtype=torch.float64, requires_grad=True)
logits, displacements = logits.requires_grad_(), displacements.requires_grad_()
loss, _ = irn_loss(logits[part], displacements[part], labels[part], 3, radius=4)
loss.backward()
gradients = [distributed.all_reduce_sum(t.grad) / distributed.world_size() for t in (logits, displacements)]
torch.save([loss.detach(), *gradients], f"{sys.argv[1]}.{rank}")
distributed.shutdown()
"""


@pytest.mark.distributed
def test_two_processes_have_the_loss_and_gradient_of_one(tmp_path):
    logits, displacements, labels = outputs(batch=3)
    labels[0] = torch.where(labels[0] == 255, 255, 0)  # this process has neither P1 nor N
    torch.save((logits, displacements, labels), tmp_path / "given")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "WORLD_SIZE": "2"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = [
        subprocess.Popen([sys.executable, "-c", HALF, str(tmp_path / "given")], env={**common, "RANK": str(rank)})
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in running] == [0, 0]

    inputs = logits.requires_grad_(), displacements.requires_grad_()
    loss, _ = irn_loss(*inputs, labels, 3, radius=4)
    loss.backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"given.{rank}")
        torch.testing.assert_close(found, [loss.detach(), *(t.grad for t in inputs)], rtol=1e-10, atol=1e-12)


class TestNetwork:
    def test_trunk_is_never_trained(self):
        network = create_irnet(backbone="resnet18").train()
        before = {name: value.clone() for name, value in network.backbone.state_dict().items()}
        edges, displacements = network(torch.randn(2, 3, 33, 50))
        assert edges.shape == (2, 1, 9, 13)
        assert displacements.shape == (2, 2, 9, 13)
        (edges.sum() + displacements.sum()).backward()
        assert all(p.grad is None for p in network.backbone.parameters())
        trained = [p for p in network.parameters() if p.requires_grad]
        assert all(p.grad is not None for p in trained)
        torch.testing.assert_close(network.backbone.state_dict(), before, rtol=0, atol=0)
        groups = irn_parameter_groups(network, IRNSettings())
        assert [group["lr"] for group in groups] == pytest.approx([0.1, 1.0])
        assert sum(len(group["params"]) for group in groups) == len(trained)

    @pytest.mark.parametrize("backbone", ["convnext_atto", "resnet18"])
    def test_other_backbones_and_strides(self, backbone):
        network = create_irnet(backbone=backbone, output_stride=None, dilate=True).eval()
        with torch.no_grad():
            edges, displacements = network(torch.randn(1, 3, 40, 70))
        assert edges.shape == (1, 1, 10, 18)
        assert displacements.shape == (1, 2, 10, 18)

    def test_refuses_a_backbone_of_one_stride(self):
        with pytest.raises(RecipeError, match="stride 2 to 4"):
            create_irnet(backbone="vit_tiny_patch16_224", output_stride=None, dilate=True)

    def test_mean_shift_only_in_inference(self):
        network = create_irnet(backbone="resnet18")
        network.mean_shift.copy_(torch.tensor([1.0, -2.0]))
        images = torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            difference = network.train()(images)[1] - network.eval()(images)[1]
            assert network(images, displacement=False)[1] is None
        torch.testing.assert_close(difference, torch.tensor([1.0, -2.0])[None, :, None, None].expand(1, 2, 8, 8))

    def test_edges_of_a_pair(self):
        network = create_irnet(backbone="resnet18").eval()
        images = torch.randn(2, 3, 30, 45)
        pair = torch.cat([images, images.flip(-1)])
        edges, displacements = infer_edges(network, pair, displacement=True)
        assert edges.shape == (2, 1, 8, 12)
        torch.testing.assert_close(edges, merge_edges(network(pair)[0]))
        torch.testing.assert_close(displacements, network(images)[1])
        swapped, _ = infer_edges(network, pair.flip(-1))
        assert infer_edges(network, pair, pad_to=64)[0].shape == (2, 1, 8, 12)
        assert not torch.allclose(infer_edges(network, pair, pad_to=64)[0], edges)
        torch.testing.assert_close(infer_edges(network, pair, pad_to=20)[0], edges)
        torch.testing.assert_close(swapped.flip(-1), edges)


@pytest.fixture
def settings():
    train = TrainSettings(
        epochs=None, steps=2, batch_size=2, lr=0.1, workers=0, momentum=0.0,
        augment={"crop": (32, 40), "scale": (0.5, 1.5)},
    )  # fmt: skip
    return IRNSettings(backbone="resnet18", pretrained=False, train=train, train_radius=4, exp_times=3)


@pytest.fixture
def irn_labels(tmp_path):
    def write(dataset):
        for name, mask in zip(dataset.names, dataset.masks):
            path = tmp_path / "labels" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_mask(path, mask, dataset.labels)
        return tmp_path / "labels"

    return write


def test_training_stage(memory_set, settings, irn_labels, tmp_path):
    dataset = memory_set(sizes=((24, 40),) * 3)
    labels = irn_labels(dataset)
    recipe = Recipe(refine=["irn"])
    start = build_irnet(settings, recipe.random_seed)
    result = train_irnet(recipe, settings, dataset, labels, tmp_path / "irnet", "cpu")
    assert result["steps"] == 2
    assert set(TERMS) <= set(result["train"])
    path = tmp_path / "irnet" / "model.safetensors"
    assert load_metadata(path)["kind"] == "irnet"
    network = load_irnet(path)
    torch.testing.assert_close(network.backbone.state_dict(), start.backbone.state_dict(), rtol=0, atol=0)
    assert not torch.equal(network.edge_out.weight, start.edge_out.weight)
    assert not torch.equal(network.displacement_out.weight, start.displacement_out.weight)
    expected = mean_displacement(network, dataset, (32, 40), torch.device("cpu"), batch=1)
    assert expected.abs().max() > 0
    torch.testing.assert_close(network.mean_shift, expected)
    # finished: the same call trains nothing, and another process finds the same network
    assert train_irnet(recipe, settings, dataset, labels, tmp_path / "irnet", "cpu") == result


def test_training_stage_says_what_is_missing(memory_set, settings, tmp_path):
    dataset = memory_set()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="IR labels"):
        train_irnet(Recipe(refine=["irn"]), settings, dataset, tmp_path / "empty", tmp_path / "irnet", "cpu")
    with pytest.raises(RecipeError, match="classifier"):
        build_irnet(IRNSettings(backbone="resnet18"))


def test_trunk_of_the_classifier(settings, tmp_path):
    classifier = create_classifier(backbone="resnet18", num_tags=3)
    save_model(tmp_path / "model.safetensors", classifier, {"kind": "classifier"})
    settings.pretrained = "classifier"
    network = build_irnet(settings, classifier=tmp_path / "model.safetensors")
    torch.testing.assert_close(network.backbone.state_dict(), classifier.backbone.state_dict(), rtol=0, atol=0)


@pytest.fixture
def refined(memory_set, random_maps, settings, tmp_path):
    """Seeds, a network, and a run of both stages for five images, one untagged and one of which nobody said."""
    sizes = ((24, 40), (24, 40), (30, 21), (24, 40), (24, 40))
    dataset = memory_set(sizes=sizes, tags=[(1,), (1, 3), (2,), (), None])
    for index, name in enumerate(dataset.names[:4]):
        keys = np.array([dataset.labels.foreground.index(tag) for tag in dataset.tags(index)], np.int64)
        height, width = sizes[index]
        path = tmp_path / "seeds" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        cam = random_maps(len(keys), (-(-height // 4), -(-width // 4)), index)
        np.savez(path, keys=keys, cam=cam, high_res=random_maps(len(keys), sizes[index], index))
    network = create_irnet(backbone="resnet18").eval()

    def run(**changes):
        now = settings.model_copy(update=changes)
        extract_edges(dataset, network, now, tmp_path / "edges", "cpu", displacement=True)
        refine_folder(dataset, tmp_path / "seeds", tmp_path / "edges", now, tmp_path / "maps", "cpu")

    return dataset, network, run


def test_refined_maps(refined, settings, tmp_path):
    dataset, network, run = refined
    run(cam_power=1.5)
    assert sorted(dataset.opened) == [0, 1, 2]
    for index, name in enumerate(dataset.names[:4]):
        keys, high_res = load_maps(tmp_path / "maps", name)
        assert high_res.dtype == np.float16
        assert high_res.shape == (len(dataset.tags(index)), *dataset.size(index))
        if index == 3:
            continue
        edge, displacement = load_edges(tmp_path / "edges", name, displacement=True)
        assert displacement.shape == (2, *edge.shape)
        image = torch.from_numpy(dataset.images[index]).permute(2, 0, 1)[None] / 255
        image = (image - torch.tensor(network.mean)[:, None, None]) / torch.tensor(network.std)[:, None, None]
        expected, _ = infer_edges(network, torch.cat([image, image.flip(-1)]))
        np.testing.assert_allclose(edge, expected[0, 0], atol=1e-5)
        with np.load(tmp_path / "seeds" / f"{name}.npz") as seeds:
            start = torch.from_numpy(seeds["cam"]).float() ** 1.5
            assert (seeds["keys"] == keys).all()
        walked = random_walk(start[None], torch.from_numpy(edge)[None, None], steps=2**settings.exp_times)[0]
        large = enlarge_walk(walked, dataset.size(index)).numpy()
        assert large.max() == 1
        np.testing.assert_allclose(high_res, large, atol=1e-3)
    assert not (tmp_path / "maps" / f"{dataset.names[4]}.npz").exists()


def test_edges_leave_every_module_in_its_mode(refined):
    _, network, run = refined
    network.train()
    frozen = next(layer for layer in network.edge.modules() if isinstance(layer, torch.nn.GroupNorm))
    frozen.eval()
    before = {name: module.training for name, module in network.named_modules()}
    run()
    assert {name: module.training for name, module in network.named_modules()} == before
    assert not frozen.training


@pytest.mark.bit_equal
def test_refined_maps_go_on_and_reuse_edges(refined, tmp_path):
    dataset, _, run = refined
    run()
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    size, maps = dataset.size(1), tmp_path / "maps"
    batch = [name for i, name in enumerate(dataset.names) if dataset.tags(i) and dataset.size(i) == size]
    before = {name: load_maps(maps, name)[1] for name in dataset.names[:4]}
    (maps / f"{dataset.names[1]}.npz").unlink()
    dataset.opened.clear()
    run()
    assert dataset.opened == []
    for name, high_res in before.items():
        np.testing.assert_array_equal(load_maps(maps, name)[1], high_res)
    assert {path for path in files if path.stat().st_mtime_ns != files[path]} == {maps / f"{n}.npz" for n in batch}
    with pytest.raises(DataError, match="other walk"):
        run(beta=5.0)
    assert dataset.opened == []  # another walk needs no network
    with pytest.raises(DataError, match="other pad_to"):
        run(pad_to=64)


def test_refined_maps_become_masks(refined, tmp_path):
    dataset, _, run = refined
    run()
    facts = {"method": "irn", "weights": "none", "saliency": None, "crf": False, "pretrained": False}
    scores = write_pseudo_masks(
        dataset, tmp_path / "maps", MaskSettings(threshold=0.25), tmp_path / "masks", {**facts, "tag_source": "given"}
    )
    assert scores["images"] == 4
    record = json.loads((tmp_path / "masks" / "provenance.json").read_text())
    assert record["maps"]["walk"]["beta"] == 10
    assert record["maps"]["edges"]["weights"]


def test_edges_of_another_size_are_refused(refined, settings, tmp_path):
    dataset, network, _ = refined
    extract_edges(dataset, network, settings, tmp_path / "edges", "cpu", size=(48, 48))
    with pytest.raises(DataError, match="quarter"):
        refine_folder(dataset, tmp_path / "seeds", tmp_path / "edges", settings, tmp_path / "maps", "cpu")
