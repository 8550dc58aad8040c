"""Maps of a frozen backbone: made once of each image and its mirror, kept in half precision, read as often as wanted.

Files lie by what they were made of: the backbone's weights, what the image file holds, and the size that was seen. So a
second run in the folder, a changed head or a moved data set finds them, and a changed photograph does not.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from maskwright.data import without_masks
from maskwright.data.augment import normalise, resize_image
from maskwright.data.batches import equal_batches
from maskwright.data.content import file_digest
from maskwright.data.dataset import Dataset
from maskwright.data.sizes import Size, seen_size
from maskwright.engine import distributed
from maskwright.engine.checkpoint import weights_digest
from maskwright.engine.progress import track
from maskwright.files import atomic_write, written_beside
from maskwright.models.backbone import Backbone
from maskwright.models.folding import inference_copy
from maskwright.models.layers import evaluating

# Bytes that the files of one folder take at most; what does not fit is made again whenever it is asked for.
LIMIT = 8 * 2**30
# Pixels, mirrors included, that go through the network at once: enough to keep it busy.
BATCH_PIXELS = {"cpu": 2**21, "cuda": 2**25}
LARGEST_BATCH = 64
LARGEST_HALF = torch.finfo(torch.float16).max


class FeatureStore:
    """The maps of a frozen backbone, image by image.

    Args:
        network: has a `backbone`, with `mean` and `std`; a copy of it made for inference runs. It is left as it is.
        dataset: images; neither tags nor masks are read.
        folder: of the files; each backbone has its own folder in it.
        device: where maps are made.
        levels: which of the backbone's maps, by index; negative ones count from the coarsest.
        limit: bytes that the files may take.
    """

    def __init__(
        self,
        network: nn.Module,
        dataset: Dataset,
        folder: str | os.PathLike[str],
        device: torch.device | str,
        *,
        levels: Sequence[int] = (-1,),
        limit: int = LIMIT,
    ) -> None:
        self.device = torch.device(device)
        backbone: nn.Module = network.backbone  # type: ignore[assignment]
        count = len(backbone.strides)  # type: ignore[arg-type]
        self.levels = sorted(level % count for level in levels)
        with evaluating(network):
            ready = inference_copy(network.to(self.device))
        # Where nothing can be folded that is the network itself, which may be trained while maps are still made.
        ready = copy.deepcopy(network).eval() if ready is network else ready
        self.backbone: nn.Module = ready.backbone  # type: ignore[assignment]
        self.dataset, self.unmasked = dataset, without_masks(dataset)
        kinds = f"{backbone.name} {backbone.strides} {backbone.pooled}"
        key = hashlib.sha256(f"{kinds} {weights_digest(backbone)}".encode()).hexdigest()[:12]
        self.folder = Path(folder) / key
        self.left = limit - sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))
        self.digests: dict[int, str] = {}

    def make(self, sizes: Sequence[Size], scales: Sequence[float] = (1.0,), title: str = "features") -> None:
        """Make what is missing of all images, as far as there is room; shared by all processes.

        Batches are fixed by the whole set, and one of which a file is missing is made again whole: another size of
        batch would round otherwise.

        Args:
            sizes: rules of the size that an image is seen at.
            scales: factors on it.
            title: what the progress line says.
        """
        jobs = [(size, scale, batch) for size in sizes for scale in scales for batch in self._batches(size, scale)]
        missing = [job for job in jobs if not all(self._is_kept(i, self.seen(i, job[0], job[1])) for i in job[2])]
        mine = distributed.broadcast(missing)[distributed.rank() :: distributed.world_size()]
        room = self.left // distributed.world_size()
        threads = min(4, os.cpu_count() or 1)
        with ThreadPoolExecutor(threads) as pool, written_beside(2 * LARGEST_BATCH, threads) as write:
            for size, scale, batch in track(mine, title=title, total=len(mine)):
                if room <= 0:
                    break
                seen = self.seen(batch[0], size, scale)
                images = list(pool.map(self._image, batch, repeat(seen)))
                for index, maps in zip(batch, self._computed(images), strict=True):
                    room -= sum(level.nbytes for level in maps)
                    write(self._save, self.file(index, seen), maps)
        self.left = room * distributed.world_size()
        distributed.barrier()

    def maps(self, index: int, seen: tuple[int, int]) -> list[Tensor]:
        """The levels' maps of an image and its mirror, `(2, C, h, w)` float16 each, on the CPU; read, or made now.

        Args:
            index: of the image.
            seen: height and width that the network sees.
        """
        path = self.file(index, seen)
        try:
            with safe_open(path, "pt") as arrays:
                return [arrays.get_tensor(str(level)) for level in self.levels]
        except (FileNotFoundError, SafetensorError):  # no room, or made for fewer levels
            return self._computed([self._image(index, seen)])[0]

    def seen(self, index: int, size: Size, scale: float = 1.0) -> tuple[int, int]:
        """Height and width that an image is seen at."""
        height, width = seen_size(size, self.dataset.size(index))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def file(self, index: int, seen: tuple[int, int]) -> Path:
        """Where the maps of an image are kept."""
        return self.folder / f"{self._digest(index)}-{seen[0]}x{seen[1]}.safetensors"

    def _is_kept(self, index: int, seen: tuple[int, int]) -> bool:
        """Whether the file of an image is there and has every level."""
        try:
            with safe_open(self.file(index, seen), "pt") as arrays:
                return set(arrays.keys()) >= {str(level) for level in self.levels}
        except (FileNotFoundError, SafetensorError):
            return False

    def _digest(self, index: int) -> str:
        if index not in self.digests:
            paths = self.dataset.images
            if paths is not None and paths[index] is not None:
                self.digests[index] = file_digest(str(paths[index]), whole=False)
            else:  # a built-in set, which draws an image sooner than a network looks at it
                image = self.unmasked[index].image
                self.digests[index] = hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()[:24]
        return self.digests[index]

    def _batches(self, size: Size, scale: float) -> Iterator[list[int]]:
        pixels = BATCH_PIXELS.get(self.device.type, BATCH_PIXELS["cuda"]) / (2 * scale**2)
        yield from equal_batches(self.dataset, range(len(self.dataset)), size, LARGEST_BATCH, pixels)

    def _image(self, index: int, seen: tuple[int, int]) -> Tensor:
        pixels = resize_image(self.unmasked[index].image, seen)
        return torch.tensor(pixels).permute(2, 0, 1)

    @torch.inference_mode()
    def _computed(self, images: Sequence[Tensor]) -> list[list[Tensor]]:
        backbone = self.backbone
        pixels = torch.stack(list(images)).to(self.device, memory_format=torch.channels_last)
        view = normalise(pixels, backbone.mean, backbone.std)  # type: ignore[arg-type]
        found = backbone(torch.cat([view, view.flip(-1)]))
        halves = [found[level].clamp(-LARGEST_HALF, LARGEST_HALF).half().cpu() for level in self.levels]
        count = len(images)
        return [[torch.stack([level[i], level[count + i]]) for level in halves] for i in range(count)]

    def _save(self, path: Path, maps: Sequence[Tensor]) -> None:
        with atomic_write(path) as temporary:
            save_file({str(level): part.contiguous() for level, part in zip(self.levels, maps)}, temporary)


def kept_levels(backbone: Backbone) -> list[int]:
    """Which of a backbone's maps its heads read; where nobody said so, those that are not too large for a file."""
    return sorted(backbone.maps_read) or [level for level, stride in enumerate(backbone.strides) if stride >= 4]
