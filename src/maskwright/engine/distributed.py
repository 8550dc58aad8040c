"""More than one process, started by `torchrun`; with one process every function here does nothing, at no cost."""

from __future__ import annotations

import gc
import os
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from maskwright.engine.device import choose_device
from maskwright.engine.processes import is_main, rank  # noqa: F401  # they belong here, and need no torch
from maskwright.errors import RecipeError

# Stages that only the main process works on (pseudo-masks) can take hours while the others wait at a barrier. A process
# that dies does not wait for this: torchrun ends the others at once.
TIMEOUT = timedelta(hours=24)

T = TypeVar("T")


def initialise(device: str | torch.device = "auto") -> None:
    """Join the other processes that `torchrun` started, once; without torchrun, nothing happens.

    Tensors on the CPU travel by gloo, those on the GPU by NCCL, so that agreeing on a flag does not wait for the GPU.
    """
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return
    # DistributedDataParallel imports it, and where that happens inside a process group the group is never let go: its
    # threads then live on after `shutdown`, and at times abort the process at its end.
    import torch._dynamo

    chosen = choose_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=TIMEOUT)
    else:
        dist.init_process_group("gloo", timeout=TIMEOUT)


def shutdown() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        gc.collect()  # a DistributedDataParallel that is freed after its group may wait for a thread that waits for it
        dist.destroy_process_group()


def world_size() -> int:
    """Count of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over processes, in place; the tensor is returned."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    if world_size() == 1:
        return flag
    flags = torch.tensor([int(flag)])
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return bool(flags.item())


def broadcast(value: T) -> T:
    """The main process's value, in every process; anything that can be pickled."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: T) -> list[T]:
    """Every process's value, by rank, in every process; anything that can be pickled."""
    if world_size() == 1:
        return [value]
    box: list[Any] = [None] * world_size()
    dist.all_gather_object(box, value)
    return box


def broadcast_tensors(tensors: list[torch.Tensor]) -> None:
    """Overwrite tensors with the main process's, in place."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)  # not a step of any gradient


def wrap(model: nn.Module, device: torch.device, *, compiled: bool = False) -> nn.Module:
    """The model as training calls it: compiled if asked for, with gradients averaged over processes."""
    runner: Any = torch.compile(model) if compiled else model
    if world_size() > 1 and any(p.requires_grad for p in model.parameters()):
        ids = [device.index] if device.type == "cuda" else None
        runner = DistributedDataParallel(runner, device_ids=ids, gradient_as_bucket_view=True)
    return runner


def average_gradients(module: nn.Module) -> None:
    """What `wrap` has done for a model's gradients, for a module outside of it."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    if world_size() == 1 or not parameters:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = all_reduce_sum(torch.cat([gradient.flatten() for gradient in gradients])) / world_size()
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)


def synchronise_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Batch normalisation over all processes.

    Raises:
        RecipeError: more than one process without CUDA.
    """
    if world_size() == 1:
        return model
    if device.type != "cuda":
        raise RecipeError("sync_batchnorm: true works on CUDA only; set it to false, or freeze_batchnorm: true")
    import maskwright._torchvision_guard  # noqa: F401, I001
    from timm.layers import convert_sync_batchnorm  # torch's own loses timm's fused activations

    return convert_sync_batchnorm(model)
