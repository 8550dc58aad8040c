"""Training batches whose order and content depend on the seed alone: not on workers, nor on where a run stopped."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from maskwright.data.augment import collate
from maskwright.data.dataset import Dataset
from maskwright.errors import DataError

Key = tuple[int, int]
Batch = dict[str, torch.Tensor]


class TrainingSet(TorchDataset):
    """Augmented examples; which random numbers an example gets depends only on (seed, epoch, index).

    Args:
        dataset: what to train on.
        augment: `(sample, rng) -> dict of tensors`, see `maskwright.data.augment.Augment`.
        seed: of the run.

    Raises:
        DataError: an empty dataset.
    """

    def __init__(self, dataset: Dataset, augment: Callable[..., Batch], seed: int = 0) -> None:
        if len(dataset) == 0:
            raise DataError(
                "there is nothing to train on: the training set has 0 images; check data.root and data.train"
            )
        self.dataset = dataset
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Batch:
        """One example.

        Args:
            key: (epoch, index); an index beyond the set, which `EpochSampler` gives when the set is smaller than a
                batch, is the same image again with other random numbers.

        Returns:
            What `augment` gives, and `index`, scalar int64 in 0..len-1.

        Raises:
            DataError: the image or its labels cannot be read or do not fit; the message names the example.
        """
        return self.example(key[1] % len(self.dataset), key)

    def example(self, place: int, key: Key, **options: Any) -> Batch:
        """The image at `place` with the random numbers of `key`; `options` go to `augment`.

        Raises:
            DataError: as `__getitem__`.
        """
        try:
            sample = self.dataset[place]
        except OSError as error:
            raise DataError(f"{self.dataset.names[place]}: cannot be read: {error}") from error
        example = self.augment(sample, generator_for(self.seed, *key), **options)
        example["index"] = torch.tensor(place)
        return example


class EpochSampler:
    """Batches of (epoch, index) keys for one process, from one permutation per (seed, epoch).

    Process r of W takes entries r, r + W, ... of each global batch, so the global batches do not depend on how many
    processes share them. Every process gets the same number of batches, as distributed training needs, none empty:

    - `drop_last`: only full batches. A set smaller than one global batch still gives one, by going round again.
    - not `drop_last`: each index exactly once an epoch. The last batch may be smaller, and differ by one between
      processes; had it fewer entries than there are processes, they join the batch before it. Only a set with fewer
      images than processes goes round again.

    Args:
        length: of the set.
        seed: of the run.
        rank: of this process.
        world_size: number of processes.
        batch_size: per process.
        drop_last: leave out what does not fill a batch; the next epoch's permutation leaves out others.
        shuffle: false keeps the set's order in every epoch.

    Raises:
        ValueError: a length, batch size or rank that cannot be.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int,
        drop_last: bool = True,
        shuffle: bool = True,
    ) -> None:
        if length < 1 or batch_size < 1:
            raise ValueError(f"length and batch_size must be at least 1, found {length} and {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in 0..{world_size - 1}, found {rank}")
        self.length = length
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.shuffle = shuffle
        self.epoch = 0
        self.first_batch = 0

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """Where the next iteration starts: batch `batch` of epoch `epoch`, both from 0."""
        self.epoch, self.first_batch = epoch, batch

    def __len__(self) -> int:
        """Batches in a whole epoch, whatever the position."""
        return len(self._ends())

    def __iter__(self) -> Iterator[list[Key]]:
        """The rest of the epoch at the position; the position then is the beginning of the next epoch."""
        batches = self.batches(self.epoch, self.first_batch)
        self.set_position(self.epoch + 1)
        return batches

    def batches(self, epoch: int, first_batch: int = 0) -> Iterator[list[Key]]:
        """This process's batches of one epoch from `first_batch` on."""
        ends = self._ends()
        order = self._order(epoch, ends[-1])
        for start, end in list(zip([0, *ends], ends))[first_batch:]:
            yield [(epoch, index) for index in order[start + self.rank : end : self.world_size].tolist()]

    def _ends(self) -> list[int]:
        """Where in the epoch's order each global batch ends."""
        size = self.batch_size * self.world_size
        full, rest = divmod(self.length, size)
        if self.drop_last:
            return [size * (number + 1) for number in range(max(full, 1))]
        ends = [size * (number + 1) for number in range(full)]
        if rest >= self.world_size or not ends:
            return [*ends, max(self.length, self.world_size)]
        return [*ends[:-1], self.length]

    def _order(self, epoch: int, count: int) -> np.ndarray:
        """The first `count` indices of an epoch; a further round through a small set continues counting at `length`."""
        generator = generator_for(self.seed, epoch)
        rounds = []
        for number in range(-(-count // self.length)):
            order = generator.permutation(self.length) if self.shuffle else np.arange(self.length)
            rounds.append(order + number * self.length)
        return np.concatenate(rounds)[:count]


class Loader:
    """Batches of a `TrainingSet`; each iteration is one epoch, from the sampler's position.

        loader.sampler.set_position(epoch, batch)      # only to start elsewhere than where the last iteration ended
        for batch in loader: ...

    Worker processes live across epochs, and prepare the next one's batches while the last of this one are used. A
    position other than the next, or an iteration left early, starts new ones. One iteration at a time. torch's global
    random state is left alone, so that a resumed run draws the same numbers from it.

    Args:
        train_set: gives the examples.
        sampler: gives their order, and which part is this process's.
        workers: loader processes; 0 loads in this one.
        prefetch: batches that each worker prepares ahead.
        pin_memory: put batches in page-locked memory, for faster copies to CUDA.
    """

    def __init__(
        self,
        train_set: TrainingSet,
        sampler: EpochSampler,
        *,
        workers: int = 0,
        prefetch: int = 2,
        pin_memory: bool = False,
    ) -> None:
        self.train_set = train_set
        self.sampler = sampler
        self._stream: Iterator[Any] | None = None
        self._next: tuple[int, int] | None = None
        self._loader = DataLoader(
            _BatchReader(train_set),
            batch_size=None,
            sampler=_EndlessBatches(sampler),
            collate_fn=_unchanged,
            num_workers=workers,
            prefetch_factor=prefetch if workers else None,
            pin_memory=pin_memory,
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of one epoch, see `maskwright.data.augment.collate`.

        Raises:
            DataError: an example cannot be used; the message is the one that the worker met.
        """
        epoch, first, count = self.sampler.epoch, self.sampler.first_batch, len(self.sampler)
        if first >= count:
            self.sampler.set_position(epoch + 1)
            return
        if self._stream is None or self._next != (epoch, first):
            self._stream = None  # Ends its workers before others start.
            with _stop_signals_blocked():
                self._stream = iter(self._loader)
        self.sampler.set_position(epoch + 1)
        for number in range(first, count):
            self._next = None
            batch = next(self._stream)
            if isinstance(batch, DataError):
                self._stream = None
                raise batch
            self._next = (epoch, number + 1) if number + 1 < count else (epoch + 1, 0)
            yield batch


def make_loader(
    train_set: TrainingSet,
    batch_size: int,
    *,
    workers: int = 0,
    seed: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    drop_last: bool = True,
    shuffle: bool = True,
    position: tuple[int, int] = (0, 0),
    prefetch: int = 2,
    pin_memory: bool | None = None,
) -> Loader:
    """A loader whose batches are bit-equal for any number of workers and after any resume.

    Args:
        train_set: gives the examples.
        batch_size: per process.
        workers: loader processes per training process; 0 loads in the training process.
        seed: of the order; the training set's by default.
        rank: of this process.
        world_size: number of processes.
        drop_last: see `EpochSampler`.
        shuffle: see `EpochSampler`.
        position: (epoch, batch) of the first batch.
        prefetch: batches that each worker prepares ahead.
        pin_memory: None for where CUDA is available.

    Returns:
        One epoch per iteration; `.sampler.set_position(epoch, batch)` moves it.
    """
    sampler = EpochSampler(
        len(train_set),
        train_set.seed if seed is None else seed,
        rank=rank,
        world_size=world_size,
        batch_size=batch_size,
        drop_last=drop_last,
        shuffle=shuffle,
    )
    sampler.set_position(*position)
    pin = torch.cuda.is_available() if pin_memory is None else pin_memory
    return Loader(train_set, sampler, workers=workers, prefetch=prefetch, pin_memory=pin)


@contextmanager
def _stop_signals_blocked() -> Iterator[None]:
    """Processes and threads that are started inside the block never see SIGINT and SIGTERM.

    Ctrl-C, schedulers and torchrun send these to every process of a group. This one then finishes its step and saves,
    which it could not do without its workers; it ends them itself.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _BatchReader(TorchDataset):
    """Reads whole batches, and hands a `DataError` over as a value.

    Raised in a worker, torch would raise it again with the worker's traceback as its text.
    """

    def __init__(self, train_set: TrainingSet) -> None:
        self.train_set = train_set

    def __getitem__(self, keys: list[Key]) -> Batch | DataError:
        try:
            return collate([self.train_set[key] for key in keys])
        except DataError as error:
            return error


class _EndlessBatches:
    """Key batches from the sampler's position on, epoch after epoch, so that workers never wait between epochs."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[list[Key]]:
        return self._from(self.sampler.epoch, self.sampler.first_batch)

    def _from(self, epoch: int, batch: int) -> Iterator[list[Key]]:
        while True:
            yield from self.sampler.batches(epoch, batch)
            epoch, batch = epoch + 1, 0


def _unchanged(batch: Any) -> Any:
    return batch


def generator_for(*keys: int) -> np.random.Generator:
    """A generator for these numbers; a negative seed stands for its 64-bit pattern."""
    return np.random.default_rng([key % 2**64 for key in keys])
