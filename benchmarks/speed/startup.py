"""How soon the command line answers: `--help`, `import maskwright`, and `predict` of one image, each a new process.

    python -m benchmarks.speed.startup

The floor for whatever computes is `import torch` alone. Prediction is compared with the script that a user of
segmentation-models-pytorch would write: build DeepLabV3+ with ResNet-18, load weights, predict, write the mask. Files
lie in the system's cache, as they do from the second call on; the mask is checked against the one predicted here.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import maskwright._torchvision_guard  # noqa: F401
from benchmarks.speed.pictures import photograph
from benchmarks.speed.timer import Bar, Comparison, Row, main
from maskwright import __version__, create_model, load
from maskwright.data.sample import LabelSpace
from maskwright.engine.checkpoint import save_model

LABELS = LabelSpace(("background", *(f"class {value}" for value in range(1, 21))), background=0)
PLAIN = """
import sys
import maskwright._torchvision_guard
import numpy as np, segmentation_models_pytorch as smp, torch
from PIL import Image
backbone, weights, image, out = sys.argv[1:]
model = smp.DeepLabV3Plus(backbone, encoder_weights=None, classes=21)
model.load_state_dict(torch.load(weights))
pixels = torch.from_numpy(np.asarray(Image.open(image)).copy()).permute(2, 0, 1)[None] / 255
mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
with torch.no_grad():
    labels = model.eval()((pixels - mean) / std).argmax(1)[0]
Image.fromarray(labels.numpy().astype(np.uint8)).save(out)
"""


def call(*words: str | Path) -> None:
    """Run Python with these words in a new process, with as many threads as this one computes with."""
    script = ["-c", f"import torch; torch.set_num_threads({torch.get_num_threads()})"] if words == ("torch",) else words
    subprocess.run([sys.executable, *map(str, script)], check=True, capture_output=True)


def saved(folder: Path, backbone: str) -> Path:
    """A model file as `fit` writes it."""
    torch.manual_seed(0)
    built: dict[str, Any] = {"backbone": backbone, "num_classes": len(LABELS.names), "output_stride": 16}
    described = {"name": "deeplabv3plus", **built, "options": {}}
    model, path = create_model("deeplabv3plus", **built), folder / "model.safetensors"
    preprocessing = {"mean": list(model.mean), "std": list(model.std)}
    facts = {"labels": LABELS.to_dict(), "preprocessing": preprocessing, "recipe": {}, "maskwright": __version__}
    save_model(path, model, {"kind": "segmenter", "model": described, **facts})
    return path


def prediction(backbone: str, height: int, width: int) -> Comparison:
    space = tempfile.TemporaryDirectory()
    folder = Path(space.name)
    image, out = folder / "image.png", folder / "out"
    Image.fromarray(photograph(height, width)).save(image)
    model = saved(folder, backbone)
    functions = {
        "maskwright predict": partial(call, "-m", "maskwright", "predict", model, image, f"out={out}", "overlay=false"),
        "import torch": partial(call, "torch"),
    }
    notes = []
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        notes.append(f"SKIPPED: segmentation-models-pytorch cannot be imported ({error})")
    else:
        weights = folder / "smp.pt"
        torch.save(smp.DeepLabV3Plus(backbone, encoder_weights=None, classes=21).state_dict(), weights)
        functions["script with smp"] = partial(call, "-c", PLAIN, backbone, weights, image, folder / "smp.png")

    def check(results: dict[str, Any]) -> dict[str, float]:
        (written,) = out.rglob("*.png")
        differ = float((np.asarray(Image.open(written)) != load(model, device="cpu")(image).mask).mean())
        assert differ < 1e-3, f"{differ:.1e} of the labels differ from those predicted in this process"
        assert space is not None
        return {"share of labels that differ": differ}

    return Comparison(
        functions,
        check,
        [
            Bar("import torch", 1 / 3, words="at most 3 x the import of torch (0.33 x)"),
            Bar("script with smp", 1, words="faster"),
        ],
        notes=notes,
    )


def build(device: str, *, kind: str, backbone: str, height: int, width: int) -> Comparison:
    if kind == "predict":
        return prediction(backbone, height, width)
    name = "maskwright --help" if kind == "help" else "import maskwright"
    words = ("-m", "maskwright", "--help") if kind == "help" else ("-c", "import maskwright")
    functions = {name: partial(call, *words), "import torch": partial(call, "torch")}
    # What the processes say is not compared, but each of them must succeed.
    return Comparison(functions, lambda results: {}, [Bar("import torch", 5 if kind == "help" else 10)])


SIZES = {"backbone": "resnet18", "height": 352, "width": 480}
ROW = Row(
    "Start-up: a new process each time, files cached",
    build,
    {
        "--help": {"kind": "help", **SIZES},
        "import": {"kind": "import", **SIZES},
        "predict of one image, 352x480": {"kind": "predict", **SIZES},
    },
    {"height": 48, "width": 64},
    seconds=6.0,
    on_gpu=False,
    memory=False,
)

if __name__ == "__main__":
    main(ROW)
