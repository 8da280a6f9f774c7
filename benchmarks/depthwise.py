"""Depthwise convolution: XLA's grouped convolution against shifted multiply-adds, and torch's.

    python benchmarks/depthwise.py [--rounds 7]

Forward, and forward with both gradients, at the shapes of the models that use it. The contestants
take turns; figures are medians in milliseconds. `vit_flax.blocks.kernels.depthwise` takes the winner of
each platform.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from vit_flax.blocks.kernels.depthwise import _native, _shifted

# images [b h w c], kernel, stride: CvT's first stage (queries, then keys), XCiT's blocks, a 7x7 kernel
SHAPES = (
    ((8, 56, 56, 64), 3, 1),
    ((8, 56, 56, 64), 3, 2),
    ((8, 14, 14, 384), 3, 1),
    ((8, 56, 56, 96), 7, 1),
)


def take_turns(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each; the first of three calls in a turn does not count."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            time.sleep(0.3)
            run()
            for _ in range(2):
                start = time.perf_counter()
                run()
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(measured) for name, measured in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=7)
    rounds = parser.parse_args().rounds
    rng = np.random.default_rng(0)
    table = Table(title=f'depthwise convolution on {jax.default_backend()}, ms')
    for heading in ('images', 'kernel', 'stride', 'pass', 'torch', 'native', 'shifted'):
        table.add_column(heading, justify='right')
    for shape, size, stride in SHAPES:
        x = rng.normal(size=shape).astype(np.float32)
        kernel = rng.normal(size=(size, size, 1, shape[-1])).astype(np.float32)
        images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
        weight = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()).requires_grad_()

        def torch_forward(images=images, weight=weight, stride=stride, size=size):
            return torch.nn.functional.conv2d(images, weight, stride=stride, padding=size // 2, groups=len(weight))

        def torch_both(images=images, weight=weight, forward=torch_forward):
            return torch.autograd.grad(forward().square().sum(), (images, weight))

        runs = {'forward': {'torch': torch_forward}, 'gradients': {'torch': torch_both}}
        for name, conv in (('native', _native), ('shifted', _shifted)):

            def loss(x, kernel, conv=conv, stride=stride, size=size):
                return (conv(x, kernel, stride, size // 2) ** 2).sum()

            forward = jax.jit(conv, static_argnums=(2, 3))
            both = jax.jit(jax.grad(loss, argnums=(0, 1)))
            on_device = jax.device_put((x, kernel))
            runs['forward'][name] = lambda run=forward, args=(*on_device, stride, size // 2): jax.block_until_ready(
                run(*args)
            )
            runs['gradients'][name] = lambda run=both, args=on_device: jax.block_until_ready(run(*args))
        for kind, contestants in runs.items():
            medians = take_turns(contestants, rounds)
            figures = (f'{medians[name]:.1f}' for name in ('torch', 'native', 'shifted'))
            table.add_row(str(list(shape)), f'{size}x{size}', str(stride), kind, *figures)
    Console().print(table)


if __name__ == '__main__':
    main()
