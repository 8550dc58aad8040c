"""Labelling part by part, by each engine, as kinds of runs that the harness kills.

The networks are trained beforehand: what is killed is the labelling, of shards of two tiny images each.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.reliability import children
from benchmarks.reliability.children import KILLED, Child
from benchmarks.reliability.family import children_of, workers_of
from benchmarks.reliability.victims import NETWORK, Victim, photographs

# Trained for as long as it takes until maps show the squares: masks of background alone would all be equal.
CLASSIFIER = "backbone: test_resnet, pretrained: false, options: {}, output_stride: 8"
TRAIN = "steps: 72, epochs: null, batch_size: 4, augment: {crop: [48, 48], flip: 0.5}, workers: 0"
LABEL = (
    *("label", "demo", "data=shards", "data.options={}", "device=cpu", "out=run", "sample=4"),
    *(f"classifier={{{CLASSIFIER}, train: {{{TRAIN}}}}}", f"model={{name: fcn, {NETWORK}}}"),
    *("seeds.scales=[1.0]", "refine=[crf]", "pseudo_masks.threshold=0.3"),
)
TASKS = 2


def trained(folder: Path, images: int = 200) -> None:
    """Shards of photographs, and a run whose networks are ready to label them."""
    photographs(folder / "photos", images)
    shard = ("shard", "photos", "tags.csv", "layout=folder", "data.options={}", "size=2", "out=shards")
    for words in (shard, (*LABEL, "engine=task", "task=first")):
        child = children.finish(words, folder)
        assert child.process.exitcode == 0, child.said()


def start_tasks(words: Sequence[str], folder: Path) -> Child:
    """Tasks of an array side by side, then the last one, as a scheduler starts them."""
    return children.start((*words, "task=last"), folder, before=partial(side_by_side, tuple(words)))


def side_by_side(words: tuple[str, ...]) -> None:
    """Do all tasks but the last. One that is killed is left: what it has not done, others do."""
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)  # of the whole group, which the tasks shall end by themselves
    tasks = [
        multiprocessing.Process(target=_task, args=((*words, f"task={number}/{TASKS}"), stops))
        for number in range(TASKS)
    ]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stops)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if wrong := [task.exitcode for task in tasks if task.exitcode not in (*KILLED, 0)]:
        sys.exit(f"a task ended with exit code {wrong[0]}")


def _task(words: Sequence[str], stops: set[signal.Signals]) -> None:
    from maskwright.cli.endings import main

    signal.pthread_sigmask(signal.SIG_UNBLOCK, stops)
    sys.argv = ["maskwright", *words]
    main()


def start_ranks(words: Sequence[str], folder: Path) -> Child:
    """Two ranks that torchrun starts."""
    return children.start(words, folder, before=partial(_launch, tuple(words)))


def _launch(words: tuple[str, ...]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    launcher = children.launched(2)
    os.execv(launcher[0], [*launcher, *words])


ENGINES = {
    "local": Victim((*LABEL, "engine=local", "workers=2"), trained, workers=workers_of),
    "task": Victim((*LABEL, "engine=task"), trained, stages=False, start=start_tasks, workers=children_of),
    "torchrun": Victim((*LABEL, "engine=torchrun"), trained, start=start_ranks, workers=children_of, told=(1,)),
    # A stop that reaches Ray's own processes, too, may end the command by their end.
    "ray": Victim((*LABEL, "engine=ray", "workers=2"), trained, workers=workers_of, told=(1,)),
}


def is_there(engine: str) -> bool:
    """Whether what an engine needs is installed."""
    return engine != "ray" or importlib.util.find_spec("ray") is not None
