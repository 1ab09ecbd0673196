"""Training one model with several processes, started by torchrun.

`shard` takes this process's part of a batch, `all_gather` joins the parts again. With one process (started by Python),
all functions return their argument.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from stages.runtime.errors import UserError, one_line

TIMEOUT = timedelta(minutes=10)  # for waiting for the other processes


@contextmanager
def processes() -> Iterator[torch.device]:
    """Joins the process group that torchrun started, if any. Yields this process's device: its GPU, or else the CPU.

    Raises UserError if there are too few GPUs, if the memory of one is full, or if another process ends.
    """
    cuda, number = torch.cuda.is_available(), int(os.environ.get("LOCAL_RANK", 0))
    if cuda and number >= torch.cuda.device_count():
        raise UserError(
            f"params.yaml: launch: starts more processes than this host has GPUs ({torch.cuda.device_count()}); start "
            "fewer, or set CUDA_VISIBLE_DEVICES= in the environment to use the CPU"
        )
    device = torch.device("cuda", number) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    try:
        if dist.is_torchelastic_launched():
            backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
            dist.init_process_group(backend, timeout=TIMEOUT, device_id=device if cuda else None)
        yield device
    except torch.OutOfMemoryError as error:
        raise UserError(
            "the memory of the GPU is full; use a smaller batch_size, or stop the other programs that use it"
        ) from error
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise UserError(
            f"process {rank()}: another process has ended or does not answer; torchrun reports which was first "
            f"({one_line(error)})"
        ) from error
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def shard(x: Tensor) -> Tensor:
    """This process's part of `x`, which is divided into equal parts."""
    return x.chunk(world_size())[rank()]


def all_gather(x: Tensor) -> Tensor:
    """The parts of all processes, joined in the order of their ranks; only this process's part has a gradient."""
    if world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    parts[rank()] = x
    return torch.cat(parts)


def all_reduce(x: Tensor) -> Tensor:
    """The sum over the processes, in place."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def broadcast(value: Any) -> Any:
    """The value of the first process, in all processes."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def must_agree(found: dict[str, str]) -> None:
    """Raises UserError in every process, with the names of the differing values, if they differ between processes."""
    if world_size() == 1:
        return
    everyones: list[dict[str, str]] = [{}] * world_size()
    dist.all_gather_object(everyones, found)
    first = everyones[0]
    for number, theirs in enumerate(everyones):
        if differing := [name for name in sorted(first | theirs) if first.get(name) != theirs.get(name)]:
            raise UserError(
                f"{', '.join(differing)}: differs between process 0 and process {number}; make the hosts equal"
            )


def sum_gradients(model: nn.Module) -> None:
    """Sums the gradients over the processes: each has the gradient of the loss through its part of the batch.

    As one vector, because rounding depends on the order of the additions.
    """
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    flat = all_reduce(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, summed in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))


def synchronise_batch_norm(model: nn.Module) -> None:
    """Makes every BatchNorm take its statistics over the batch of all processes (section 2.2 of the paper)."""
    if world_size() == 1:
        return
    if next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = GlobalBatchNorm2d


class _GlobalNorm(Function):
    """BatchNorm (Ioffe and Szegedy, 2015, section 3) with PyTorch's kernels and one exchange per direction."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W), (C,), (C,) -> (B, C, H, W), and mean and variance (C,) over all processes."""
        own = torch.stack(torch.batch_norm_update_stats(x, None, None, 0.0))
        means, variances = all_gather(own[None]).unbind(1)
        mean = means.mean(0)
        var = (variances + (means - mean).square()).mean(0)
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var)
        return F.batch_norm(x, mean, var, weight, bias, eps=eps), mean, var

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, var = ctx.saved_tensors
        # First the gradient with mean and variance as constants, then the part through them, which is linear in x.
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, var, None, None, False, ctx.eps, (True, True, True)
        )
        count = x.numel() // x.shape[1] * world_size()
        weight_mean, bias_mean = all_reduce(torch.stack((of_weight, of_bias))) / count
        scale = torch.rsqrt(var + ctx.eps)
        slope = -weight * scale.square() * weight_mean
        offset = -weight * scale * bias_mean - slope * mean
        return of_x.addcmul_(x, slope[:, None, None]).add_(offset[:, None, None]), of_weight, of_bias, None


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the batch of all processes on the CPU, which PyTorch's SyncBatchNorm does not support."""

    # These are optional in PyTorch, but always present here.
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not self.training:
            return super().forward(x)
        y, mean, var = _GlobalNorm.apply(x, self.weight, self.bias, self.eps)
        count = x.numel() // x.shape[1] * world_size()
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        return y
