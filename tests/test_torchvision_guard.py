"""The guard works in a fresh process, whatever build of torchvision stands beside torch."""

import importlib.util
import subprocess
import sys

import pytest

pytestmark = pytest.mark.versions

HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None


def run(code: str) -> str:
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    return finished.stdout.strip()


@pytest.mark.skipif(not HAS_TORCHVISION, reason="torchvision is not installed")
def test_torchvision_and_timm_import_after_the_guard():
    out = run(
        "import sys\n"
        "import maskwright._torchvision_guard as guard\n"
        "assert 'torchvision' not in sys.modules, 'the guard must not import torchvision'\n"
        "assert guard.install() is False, 'a second call must change nothing'\n"
        "import torch, torchvision, timm\n"
        "from torchvision.transforms import v2\n"
        "print(tuple(v2.functional.horizontal_flip(torch.ones(1, 2, 3)).shape))\n"
    )
    assert out == "(1, 2, 3)"


@pytest.mark.skipif(not HAS_TORCHVISION, reason="torchvision is not installed")
def test_operators_exist_after_the_guard():
    out = run(
        "import maskwright._torchvision_guard as guard, torch\n"
        "wanted = guard.OPERATORS if guard.MISMATCH else ['nms']\n"  # torchvision 0.21 has no other
        "print(all(hasattr(torch.ops.torchvision, name) for name in wanted))\n"
    )
    assert out == "True"


def test_broken_library_is_replaced(tmp_path):
    """A compiled part that cannot be loaded: both operators are declared with torchvision's schema."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')\n")
    (package / "_C.so").write_bytes(b"not a library")
    out = run(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import maskwright._torchvision_guard as guard, torch\n"
        "assert guard.MISMATCH\n"
        "print(torch.ops.torchvision.nms.default._schema)\n"
    )
    assert out == "torchvision::nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def test_nothing_happens_without_torchvision():
    out = run(
        "import importlib.util\n"
        "importlib.util.find_spec = lambda name, package=None: None\n"
        "import maskwright._torchvision_guard as guard, torch\n"
        "print(guard.MISMATCH, hasattr(torch.ops.torchvision, 'nms'))\n"
    )
    assert out == "False False"
