"""What is run to test the papers' claims: one recipe and its settings a row, on three sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.claims.labels import SHARES

# What every row of a set begins with. From tags: images as the recipes for photographs see them, but smaller.
SETS = {
    "msrc": [
        "masks=SegmentationClassObjects",
        "classes=classes_objects.txt",
        "tags=tags_objects.csv",
        "seeds.size=320",
    ],
    "scenes": ["seeds.size=288"],
    "camvid": ["train.workers=1"],
    "photographs": [],  # the recipes as they are, on all training images of MSRC-21
}
SETS["photographs"] = [word for word in SETS["msrc"] if not word.startswith("seeds.")]
REPETITIONS = {"photographs": 3}  # at most
DRAWN = ("msrc", "camvid")  # sets of which a repetition trains on some images
SCENES = 300  # drawn anew for each repetition, so that few say as much


@dataclass(frozen=True)
class Row:
    """A run: a recipe with settings.

    Args:
        recipe: by name.
        settings: as they are typed.
        sets: where it is run.
        unseen: only images that nothing was learned from get maps, and a few for the threshold: maps that take long.
        model: `only`: train the segmenter too, whose score on `val` is then the row's; `too`: beside those of the maps.
        once: nothing in it is random, so that one repetition says all.
        relabel: also label the training images again, by the segmenter.

    In settings `{home}` is the folder of the repetition, where `labels.write_labels` has written.
    """

    recipe: str
    settings: tuple[str, ...] = ()
    sets: tuple[str, ...] = ("msrc",)
    unseen: bool = False
    model: str = ""
    once: bool = False
    relabel: bool = False


SECOND = (
    *("train.epochs=2", "train.batch_size=8", "train.optimizer=adamw", "train.lr=0.001", "train.bias_lr=1.0"),
    *("train.weight_decay=0.01", "train.schedule=onecycle", "train.freeze_batchnorm=true", "train.workers=1"),
    "train.augment={long_side: [320, 320], crop: [208, 208], flip: 0.5, color_jitter: 0.2, hue: 0.0}",
)
L2G = (*(f"l2g.{word}" for word in SECOND), "l2g.train.backbone_lr=0.0", "l2g.view_size=[144, 144]")
TUNED = (*(f"recam.{word}" for word in SECOND), "recam.train.frozen=false", "recam.train.backbone_lr=0.03")
SEAM = (*(f"seam.{word}" for word in SECOND), "seam.train.backbone_lr=0.0")
BOTH = ("msrc", "scenes")

TAGS = {
    "CAM": Row("cam", sets=BOTH),
    "CAM, CRF": Row("instant", sets=BOTH),
    **{
        f"ReCAM, {option}": Row("recam", (f"seeds.options={{weight: {option}}}",), sets=BOTH)
        for option in ("agree", "product", "w2", "sum")
    },
    "ReCAM, CRF": Row("recam", ("refine=[crf]", "crf={preset: deeplab, power: 2}"), sets=BOTH),
    **{
        f"ReCAM, trained, lambda {value:g}": Row("recam", (*TUNED, f"recam.sce_weight={value}"))
        for value in (0.3, 1, 3)
    },
    "CAM, trained on as long": Row("recam", (*TUNED, "recam.sce_weight=0", "seeds.method=cam", "seeds.options={}")),
    "AdvCAM": Row("cam", ("seeds.method=advcam",), unseen=True),
    "CAM, sliding window": Row("cam", ("seeds.window=[144, 144]",)),
    "CAM, IRN": Row("cam-irn", sets=BOTH),
    "ReCAM, IRN": Row("recam-irn", sets=BOTH),
    "SEAM": Row("seam", SEAM, sets=BOTH),
    "L2G": Row("l2g", L2G, sets=BOTH),
    "L2G, CRF": Row("l2g", (*L2G, "refine=[crf]", "crf={preset: deeplab, power: 2}")),
    "L2G, 1 view": Row("l2g", (*L2G, "l2g.views=1")),
    "L2G, 2 views": Row("l2g", (*L2G, "l2g.views=2")),
    "L2G, 8 views": Row("l2g", (*L2G, "l2g.views=8")),
    "L2G, small views": Row("l2g", (*L2G, "l2g.view_size=[96, 96]")),
    "L2G, large views": Row("l2g", (*L2G, "l2g.view_size=[192, 192]")),
    "L2G, shared trunk": Row("l2g", (*L2G, "l2g.shared_backbone=true")),
    "L2G, tag loss on the global network": Row("l2g", (*L2G, "l2g.global_classification=1")),
    "L2G, shapes of the built-in detector": Row("l2g", (*L2G, "l2g.transfer=shape", "saliency=barrier")),
    "L2G, local network": Row("l2g", (*L2G, "l2g.keep=local", "seeds.window=[144, 144]")),
    "L2G, form of the code, PCM": Row("l2g", (*L2G, "l2g.form=code", "l2g.pcm=true", "l2g.views=6")),
}
# The segmenter's head alone is trained, on kept maps of images at 240x320; or all of it, on images at 180x240.
KEPT = (
    *("train.frozen=true", "train.augment={long_side: [320, 320], flip: 0.5}", "train.epochs=5", "train.lr=0.003"),
    *("inference.size=320", "inference.flip=false", "loss.class_weights=none"),
)
MOVED = (
    "train.augment={long_side: [240, 240], scale: [0.75, 1.25], crop: [160, 240], flip: 0.5}",
    *("train.epochs=5", "inference.size=240", "inference.flip=false", "loss.class_weights=none"),
)
LMP = "loss.name=loss_max_pooling"
FCN = ("model.name=fcn", "model.options={channels: 128}")
DUPSAMPLING = "model.name=dupsampling"
BILINEAR = (DUPSAMPLING, "model.options.upsampling=bilinear")
COARSE = "model.output_stride=32"
HRNET = (
    *("model.backbone=hrnet_w18_small", "model.pretrained=false", "model.output_stride=none", "model.options={}"),
    *("train.backbone_lr=1.0", "loss.name=rmi", "loss.options={ce: softmax}"),
)


def masks(*settings: str, kept: bool = True) -> Row:
    return Row("deeplabv3plus-quick", (*(KEPT if kept else MOVED), *settings), ("camvid",))


def heads(kind: str) -> tuple[str, str]:
    """Auxiliary heads on the maps of strides 8 and 16."""
    return f"model.options.auxiliary={{{kind}: [8, 16]}}", f"loss.auxiliary={{{kind}: 0.4}}"


MASKS = {
    "cross-entropy": masks(),
    "loss max-pooling": masks(LMP),
    "loss max-pooling, p 1.3": masks(LMP, "loss.options={p: 1.3}"),
    "inverse frequency": masks("loss.class_weights=inverse"),
    "bilinear at 16": masks(*BILINEAR),
    "bilinear at 32": masks(*BILINEAR, COARSE),
    "DUpsampling at 16": masks(DUPSAMPLING),
    "DUpsampling at 32": masks(DUPSAMPLING, COARSE),
    "DUpsampling at 32, no temperature": masks(DUPSAMPLING, COARSE, "model.options.temperature=false"),
    "DUpsampling at 32, coordinates first": masks(
        DUPSAMPLING, COARSE, "model.options.compressed_epochs=2", "train.epochs=3"
    ),
    **{
        f"DUpsampling at 32, maps of {words}": masks(DUPSAMPLING, COARSE, f"model.options.low_level={maps}")
        for words, maps in (("none", []), ("stride 4", [1]), ("stride 8", [2]), ("stride 16", [3]))
    },
    "cross-entropy, all trained": masks(kept=False),
    "loss max-pooling, all trained": masks(LMP, kept=False),
    "nearest pooling": masks(*heads("nearest"), kept=False),
    "CPP pooling": masks(*heads("cpp"), kept=False),
    "FCN": masks(*FCN, kept=False),
    "FCN, nearest pooling": masks(*FCN, *heads("nearest"), kept=False),
    "FCN, CPP pooling": masks(*FCN, *heads("cpp"), kept=False),
    "bilinear at 16, all trained": masks(*BILINEAR, kept=False),
    "DUpsampling at 32, all trained": masks(DUPSAMPLING, COARSE, kept=False),
    "OCR on HRNet": masks(*HRNET, "model.name=ocrnet", "loss.auxiliary={aux: 0.4}", kept=False),
    "SeeThrough on HRNet": masks(
        *HRNET, "model.name=seethrough", "loss.auxiliary={cpp: 0.4, aux: 0.4, scale: 0.05}", kept=False
    ),
}

# What labels are worth for their cost: as many steps for each, the segmenter's head alone, no CRF after it.
HEAD = (
    *("train.epochs=none", "train.steps=210", "train.augment={long_side: [320, 320], flip: 0.5}"),
    *("inference.size=320", "inference.scales=[1.0]", "inference.crf=none"),
)
ALL = "supervision=masks"
LABELS = {
    "labels: tags": Row("instant", HEAD, model="only"),
    **{
        f"labels: tags, masks of {share} %": Row(
            "instant", (*HEAD, "supervision=mixed", f"mixed_list={{home}}/masks-{share}.txt"), model="only"
        )
        for share in SHARES[1:]
    },
    **{
        f"labels: masks at the cost of tags and {share} %": Row(
            "instant", (*HEAD, ALL, f"data.train={{home}}/cost-{share}.txt"), model="only"
        )
        for share in SHARES
    },
    "labels: masks of all": Row("instant", (*HEAD, ALL), model="only"),
    **{
        f"labels: {kind}": Row("instant", (*HEAD, ALL, f"masks={{home}}/{kind}"), model="only")
        for kind in ("strokes", "boxes")
    },
}

# All of the papers at once, and each left out. The backbone is trained, for CPP pooling teaches it.
CRF = ("crf={preset: deeplab, power: 2}",)
WHOLE = {
    "seeds": (
        "networks=[classifier, recam]",
        "recam.train.frozen=true",
        "seeds.method=recam",
        "seeds.options={weight: agree}",
    ),
    "decoding": (DUPSAMPLING, COARSE),
    "CPP": heads("cpp"),
    "LMP": (LMP,),
}
TOGETHER_TRAIN = (
    *("model.backbone=tf_efficientnet_lite0", "train.frozen=false", "train.epochs=6", "train.lr=0.002"),
    *("train.backbone_lr=0.2", "inference.size=240", "inference.scales=[1.0]", "inference.crf=none"),
    "train.augment={long_side: [240, 240], scale: [0.75, 1.25], crop: [160, 240], flip: 0.5}",
)


def together(without: str = "") -> Row:
    """ReCAM, IRN, DUpsampling, CPP pooling and loss max-pooling, but one of them."""
    words = [word for part, settings in WHOLE.items() if part != without for word in settings]
    if without == "decoding":
        words += ["model.name=deeplabv3plus", "model.options.decoder_channels=128"]
    recipe = "instant" if without == "IRN" else "cam-irn"
    start = ["model.options={}", *(CRF if without == "IRN" else ())]
    return Row(recipe, (*start, *TOGETHER_TRAIN, *words), model="only")


TOGETHER = {
    "together: all": together(),
    **{
        f"together: without {words}": together(part)
        for words, part in (
            ("ReCAM", "seeds"),
            ("IRN, with a CRF", "IRN"),
            ("DUpsampling, DeepLabV3+", "decoding"),
            ("CPP pooling", "CPP"),
            ("loss max-pooling", "LMP"),
        )
    },
    "together: none, DeepLabV3+ on instant's masks": Row(
        "instant",
        ("model.options={}", *TOGETHER_TRAIN, "model.name=deeplabv3plus", "model.options.decoder_channels=128"),
        model="only",
    ),
}


def recipe(name: str, *settings: str, **more: Any) -> Row:
    return Row(name, settings, ("photographs",), **more)


RECIPES = {
    "recipe cam": recipe("cam", once=True),
    "recipe recam": recipe("recam", once=True),
    "recipe instant": recipe("instant", "fully_supervised=true", model="too", relabel=True),
    "recipe seam": recipe("seam", model="too", relabel=True),
    **{f"recipe {name}": recipe(name) for name in ("l2g", "cam-irn", "recam-irn", "eps", "edam")},
}
ROWS = {**RECIPES, **TAGS, **MASKS, **LABELS, **TOGETHER}

# What `make claims-quick` runs, in as many repetitions.
QUICK_REPETITIONS = 3
QUICK = {
    "msrc": ("CAM", "CAM, CRF", "ReCAM, agree"),
    "scenes": ("CAM", "ReCAM, product"),
    "camvid": ("cross-entropy", "loss max-pooling"),
}
