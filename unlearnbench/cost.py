"""What a method costs: synchronised wall time, peak memory, samples drawn, per-sample gradients."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from unlearnbench.data import Counter


@contextmanager
def measure(device: torch.device, counter: Counter) -> Iterator[dict[str, float | None]]:
    """Fill the dictionary it yields: ``seconds``, ``peak_memory`` (bytes over the start), ``samples``, ``gradients``.

    ``peak_memory`` is None except on CUDA: a process on the CPU reuses what it freed before, so that its high-water
    mark says little about the method.
    """
    cost: dict[str, float | None] = {}
    cuda = device.type == "cuda"
    samples, gradients = counter.samples, counter.gradients
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    yield cost
    if cuda:
        torch.cuda.synchronize(device)
    cost["seconds"] = time.perf_counter() - start
    cost["peak_memory"] = float(torch.cuda.max_memory_allocated(device) - held) if cuda else None
    cost["samples"] = float(counter.samples - samples)
    cost["gradients"] = float(counter.gradients - gradients)


def count_gradients(model: nn.Module, counter: Counter) -> list[RemovableHandle]:
    """Count every sample whose gradient flows back into ``model``'s weights, once per backward pass.

    The representation is watched where the encoder trains, and the logits where the head alone does.
    """

    def count(tensor: Tensor) -> None:
        def add(_gradient: Tensor) -> None:
            counter.gradients += size

        size = len(tensor)
        tensor.register_hook(add)

    def watch_output(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad and not inputs[0].requires_grad:
            count(output)

    def watch_head(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if inputs[0].requires_grad or output.requires_grad:
            count(inputs[0] if inputs[0].requires_grad else output)

    encoder, head = getattr(model, "encoder", None), getattr(model, "head", None)
    if not isinstance(encoder, nn.Module) or not isinstance(head, nn.Module):
        return [model.register_forward_hook(watch_output)]
    if any(part is head for part in encoder.modules()):  # a wrapped network
        return [head.register_forward_hook(watch_head)]
    return [part.register_forward_hook(watch_output) for part in (encoder, head)]
