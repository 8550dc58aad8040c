"""Fitting the label basis of DUpsampling (Tian et al., CVPR 2019, arXiv 1903.02120) from any set of masks.

A cell of `r x r` pixels is a vector v of `r*r*C` zeros and ones, index `(dy*r + dx)*C + class`. The matrix W whose
`W W^T v` comes nearest to v on average holds the top eigenvectors of the second moment `E[v v^T]`. The moment is not
centred, since the model has no bias. The paper trains W and its inverse map by gradient descent; this is the solution
in closed form.

Neither the vectors nor the moment exist in memory (at r = 32 and 21 classes the moment alone is 3.7 GB). What is kept:
a few times `max_patches` cells of `r*r` bytes while masks stream by (50 MB per 50,000 at r = 32), and about three times
the basis in float64. Three things make it fast. Cells of one class (often two thirds of all) are only counted. Along a
row of pixels labels come in runs, so with running sums a product costs one look-up for each change of label instead of
one for each pixel. And eigenvectors are found by block Lanczos steps with thick restarts, which needs far fewer
products than subspace iteration, whose speed suffers from the slow decay of these spectra. The last two are in
`dupsampling_fit_cpu`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from maskwright.data.dataset import Dataset
from maskwright.engine.progress import track
from maskwright.errors import DataError, RecipeError
from maskwright.files import atomic_write
from maskwright.models.dupsampling_fit_cpu import second_moment, top_eigenpairs

# Fewer clean cells of several classes than this, of all that are labelled but not wholly of one class: those with few
# ignored pixels are taken as well. Clean cells of one class do not count: where each object has an ignored border, as
# in PASCAL VOC, they are most of a mask and say nothing of what borders look like.
CLEAN_SHARE, IGNORED_SHARE = 0.2, 0.25
# Up to this many rows the moment is formed and decomposed as a whole, which is exact.
DENSE_ROWS = 1024


@dataclass(frozen=True)
class LabelPatches:
    """Cells of label maps, each different one once.

    Args:
        labels: `(n, r*r)` uint8, raster order; `num_classes` stands for an ignored pixel.
        weights: `(n,)` float64, how many cells of the data set each row stands for.
        ratio: r.
        num_classes: C.
        used: cells of the data set that the rows stand for.
        seen: cells of the data set, padding included.
    """

    labels: np.ndarray
    weights: np.ndarray
    ratio: int
    num_classes: int
    used: int
    seen: int

    @property
    def rows(self) -> int:
        """Length of a cell's vector, r*r*C."""
        return self.ratio**2 * self.num_classes


@dataclass(frozen=True)
class LabelBasis:
    """What DUpsampling reconstructs labels with.

    Args:
        weight: W, `(r*r*C, d)` float64, orthonormal columns, the most important first.
        eigenvalues: `(d,)` of the second moment (a mean over cells), descending.
        error: mean over cells of `|v - W W^T v|^2`; a cell without ignored pixels has `|v|^2 = r*r`.
        ratio: r.
        num_classes: C.
        patches: cells that it was fitted to.
    """

    weight: np.ndarray
    eigenvalues: np.ndarray
    error: float
    ratio: int
    num_classes: int
    patches: int

    def save(self, path: str | Path) -> None:
        """Write a `.npz` file, atomically; W as float32."""
        facts = {name: getattr(self, name) for name in ("eigenvalues", "error", "ratio", "num_classes", "patches")}
        with atomic_write(path) as temporary:
            np.savez(temporary, weight=self.weight.astype(np.float32), **facts)

    @classmethod
    def load(cls, path: str | Path) -> LabelBasis:
        """Read what `save` wrote.

        Raises:
            DataError: no such file, or another kind of file.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(
                    weight=stored["weight"].astype(np.float64),
                    eigenvalues=stored["eigenvalues"],
                    error=float(stored["error"]),
                    ratio=int(stored["ratio"]),
                    num_classes=int(stored["num_classes"]),
                    patches=int(stored["patches"]),
                )
        except FileNotFoundError:
            raise DataError(f"label basis {path} does not exist; leave out label_basis to fit one") from None
        except (ValueError, KeyError, OSError, EOFError, BadZipFile, AttributeError, TypeError) as error:
            raise DataError(f"{path} is not a label basis as maskwright saves it: {error}") from error


def masks_of(dataset: Dataset, title: str = "reading masks") -> Iterator[np.ndarray]:
    """Every mask `(H, W)` uint8 of a dataset, one after the other."""
    for index in track([index for index in range(len(dataset)) if dataset.has_mask(index)], title=title):
        if (mask := dataset.mask(index)) is not None:
            yield mask


def label_patches(
    masks: Iterable[np.ndarray],
    ratio: int,
    num_classes: int,
    *,
    ignore_index: int = 255,
    max_patches: int = 50_000,
    background: int | None = None,
    seed: int = 0,
) -> LabelPatches:
    """Cells of a stream of masks, on a grid from the top left; masks are padded with ignore below and on the right.

    Cells with an ignored pixel are left out. Where less than a fifth of the labelled cells that are not wholly of one
    class would remain (thin ignored borders are everywhere in PASCAL VOC), those with up to a quarter ignored are used
    too, zero at the ignored pixels.

    Args:
        masks: `(H, W)` integer each, values 0..C-1 or `ignore_index`.
        ratio: side of a cell in pixels.
        num_classes: C, at most 255.
        ignore_index: value of pixels without a label.
        max_patches: the most cells of several classes that are kept, a uniform sample of them where there are more;
            cells of one class are counted, all of them.
        background: with this class given, cells wholly of it count no more than all the others together.
        seed: of the sample.

    Raises:
        DataError: no cell can be used, or values that are no class.
        RecipeError: a ratio, number of classes or of patches that cannot be.
    """
    if ratio < 1 or not 1 <= num_classes <= 255 or max_patches < 1:
        raise RecipeError(
            "a label basis needs ratio >= 1, 1..255 classes and max_patches >= 1, found "
            f"ratio={ratio}, {num_classes} classes, max_patches={max_patches}"
        )
    rng = np.random.default_rng(seed)
    uniform = np.zeros(num_classes, np.int64)
    clean, marred = _Sample(max_patches, rng), _Sample(max_patches, rng)
    seen = labelled = 0
    for mask in masks:
        cells = cut_cells(mask, ratio, num_classes, ignore_index)
        ignored = (cells == num_classes).sum(1)
        one_class = (cells == cells[:, :1]).all(1)
        uniform += np.bincount(cells[one_class & (ignored == 0), 0], minlength=num_classes)
        clean.add(cells[~one_class & (ignored == 0)])
        marred.add(cells[(ignored > 0) & (ignored <= IGNORED_SHARE * ratio**2)])
        seen += len(cells)
        labelled += int((ignored < ratio**2).sum())
    used = int(uniform.sum()) + clean.seen
    samples = [clean]
    if clean.seen < CLEAN_SHARE * (labelled - uniform.sum()):
        samples.append(marred)
        used += marred.seen
    if not used:
        raise DataError(
            f"no cell of {ratio} x {ratio} pixels without ignored pixels in {seen} cells; "
            "check the masks with `maskwright data check`, or take a smaller ratio (output stride)"
        )
    if background is not None:
        others = used - uniform[background]
        uniform[background] = min(uniform[background], max(others, 1))
    present = np.flatnonzero(uniform)
    kept = [sample.different() for sample in samples if sample.seen]
    rows = [np.repeat(present.astype(np.uint8)[:, None], ratio**2, 1), *(cells for cells, _ in kept)]
    weights = [uniform[present].astype(np.float64), *(weights for _, weights in kept)]
    return LabelPatches(np.concatenate(rows), np.concatenate(weights), ratio, num_classes, used, seen)


def cut_cells(mask: np.ndarray, ratio: int, num_classes: int, ignore_index: int = 255) -> np.ndarray:
    """A mask `(H, W)` as cells `(ceil(H/r) * ceil(W/r), r*r)` uint8, where `num_classes` stands for ignored.

    Raises:
        DataError: values that are neither a class nor `ignore_index`.
    """
    ignored = mask == ignore_index
    wrong = ~ignored & ((mask < 0) | (mask >= num_classes))
    if wrong.any():
        found = ", ".join(str(value) for value in np.unique(mask[wrong])[:8])
        raise DataError(f"masks must hold 0..{num_classes - 1} or {ignore_index} (ignored), found {found}")
    values = np.where(ignored, num_classes, mask).astype(np.uint8)
    height, width = mask.shape
    values = np.pad(values, ((0, -height % ratio), (0, -width % ratio)), constant_values=num_classes)
    down, across = values.shape[0] // ratio, values.shape[1] // ratio
    return values.reshape(down, ratio, across, ratio).transpose(0, 2, 1, 3).reshape(down * across, ratio**2)


def fit_label_basis(
    patches: LabelPatches,
    dim: int,
    *,
    tolerance: float = 1e-4,
    centred: bool = False,
    dense: bool | None = None,
    seed: int = 0,
) -> LabelBasis:
    """The `dim` directions that lose least of the cells.

    Args:
        patches: what it is fitted to.
        dim: d.
        tolerance: how far the error may stay above the least, as a share of it, estimated from how it fell in the last
            steps; only where `dense` is false. On nine kinds of masks 1e-4 ended between 1e-8 and 2.2e-5 above.
        centred: directions about the mean cell. Its error says what a bias would bring; the model has none, so the
            basis is for comparison only.
        dense: decompose the whole moment, exactly; by default where it has at most 1024 rows.
        seed: of the random start.

    Raises:
        RecipeError: `dim` is not in 1..r*r*C.
    """
    rows = patches.rows
    if not 1 <= dim <= rows:
        raise RecipeError(
            f"a label basis of {patches.ratio} x {patches.ratio} cells and {patches.num_classes} classes "
            f"has 1..{rows} directions, found dim={dim}"
        )
    weights = patches.weights / patches.weights.sum()
    apply, total = second_moment(patches.labels, weights, patches.num_classes, centred)
    if dense is None:
        dense = rows <= DENSE_ROWS
    if dense:
        values, vectors = (found.flip(-1)[..., :dim] for found in torch.linalg.eigh(apply(torch.eye(rows).double())))
    else:
        values, vectors = top_eigenpairs(apply, rows, dim, total, tolerance, seed)
    values = values.clamp(min=0)
    error = max(0.0, total - float(values.sum()))
    weight = vectors.contiguous().numpy()
    return LabelBasis(weight, values.numpy(), error, patches.ratio, patches.num_classes, patches.used)


class _Sample:
    """A uniform sample of rows from a stream: those with the smallest random numbers."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng, self.seen = size, rng, 0
        self.keys: list[np.ndarray] = []
        self.rows: list[np.ndarray] = []
        self.held = 0

    def add(self, rows: np.ndarray) -> None:
        self.keys.append(self.rng.random(len(rows)))
        self.rows.append(rows)
        self.seen += len(rows)
        self.held += len(rows)
        if self.held > 2 * self.size:
            self._prune()

    def _prune(self) -> None:
        keys, rows = np.concatenate(self.keys), np.concatenate(self.rows)
        if len(keys) > self.size:
            kept = np.argpartition(keys, self.size)[: self.size]
            keys, rows = keys[kept], rows[kept]
        self.keys, self.rows, self.held = [keys], [rows], len(keys)

    def different(self) -> tuple[np.ndarray, np.ndarray]:
        """Each different row once, and how many rows of the stream it stands for."""
        self._prune()
        rows = np.ascontiguousarray(self.rows[0])
        whole = rows.view(f"V{rows.shape[1]}").ravel()
        _, first, counts = np.unique(whole, return_index=True, return_counts=True)
        return rows[first], counts * (self.seen / max(1, len(rows)))
