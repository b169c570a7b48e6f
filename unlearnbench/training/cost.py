"""What a method costs: wall time, peak memory, samples drawn, per-sample gradients, floating-point operations."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from unlearnbench.data.tensors import Counter


@contextmanager
def measure(device: torch.device, counter: Counter) -> Iterator[dict[str, float | None]]:
    """Fill the dictionary it yields: ``seconds``, ``peak_memory`` (bytes over the start), ``samples``, ``gradients``,
    ``flops`` (None where no model's operations were priced).

    ``peak_memory`` is None except on CUDA: a process on the CPU reuses what it freed before, so that its high-water
    mark says little about the method.
    """
    cost: dict[str, float | None] = {}
    cuda = device.type == "cuda"
    samples, gradients, flops = counter.samples, counter.gradients, counter.flops
    if cuda:
        gc.collect()  # models that lie in cycles would count as held, and be freed on the way
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
    cost["flops"] = float(counter.flops - flops) if counter.prices else None


def price(model: nn.Module, x: Tensor) -> dict[str, tuple[int, int]]:
    """Floating-point operations of a forward and of a backward pass of one sample ``x`` ``[1, C, H, W]`` through each
    part of ``model``, as `torch.utils.flop_counter` counts them: 2 for each multiply-add of a convolution, a matrix
    product or attention; elementwise work is left out."""
    model = deepcopy(model).eval().requires_grad_(True)
    encoder, head = _parts(model)
    prices = {}
    parts = {"head": model} if encoder is None else {"encoder": encoder, "head": head}
    for name, part in parts.items():
        with FlopCounterMode(display=False) as forward:
            y = part(x)
        with FlopCounterMode(display=False) as backward:
            if y.requires_grad:  # an encoder may have no weights
                y.sum().backward()
        prices[name] = forward.get_total_flops(), backward.get_total_flops()
        x = y.detach().requires_grad_(True)
    return prices


def count_work(model: nn.Module, counter: Counter) -> list[RemovableHandle]:
    """Count what flows through ``model`` and its copies: every sample whose gradient flows back into its weights, once
    per backward pass, and the operations of every forward and backward pass.

    A gradient is counted at the representation where the encoder trains, and at the logits where the head alone does.
    A backward pass is priced as if all weights of the part took gradients.
    """

    def seen(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        forward, backward = counter.prices.get(name, (0, 0))
        counter.flops += len(output) * forward
        below = encoder is not None and name == "head" and inputs[0].requires_grad  # then the encoder counts the sample
        watched = inputs[0] if encoder is None and inputs[0].requires_grad else output
        if watched.requires_grad:
            watched.register_hook(partial(flowed, 0 if below else len(output), len(output) * backward))

    def flowed(samples: int, operations: int, _gradient: Tensor) -> None:
        counter.gradients += samples
        counter.flops += operations

    encoder, head = _parts(model)
    handles = [head.register_forward_hook(lambda _, inputs, output: seen("head", inputs, output))]
    if encoder is not None:
        handles.append(encoder.register_forward_hook(lambda _, inputs, output: seen("encoder", inputs, output)))
    return handles


def _parts(model: nn.Module) -> tuple[nn.Module | None, nn.Module]:
    """Encoder and head. A wrapped network, whose head is inside, has no encoder that could run without the head; of a
    network without such parts the whole is the head."""
    encoder, head = getattr(model, "encoder", None), getattr(model, "head", None)
    if not isinstance(encoder, nn.Module) or not isinstance(head, nn.Module):
        return None, model
    return (None if any(part is head for part in encoder.modules()) else encoder), head
