"""Forward and training step of each model against vit-pytorch, side by side, turn by turn.

    python benchmarks/speed.py [MODEL ...] [--batch 8] [--rounds 5] [--record]

A stem has the size of its paper (`CARD.paper_size`), a preset its own; weights are float32; a
training step is forward, backward and AdamW. Each framework has a process of its own, as it has in
use, and they take turns, so that a busy machine disturbs both. Figures are medians, the ratio is
vit-pytorch's time over ours (above 1: ours is faster).
"""

import argparse
import csv
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import jax
import numpy as np
import optax
import torch
from rich.console import Console
from rich.table import Table

from parity_tests.case import build_upstream, paper_model
from parity_tests.upstream import upstream_module
from vit_flax.card import ModelCard
from vit_flax.registry import model_info, presets, stems

PASSES = ('forward', 'train step')
RECORD = Path(__file__).parent.parent / 'docs' / 'speed.csv'


def named(name: str) -> tuple[str, ModelCard, dict]:
    """Stem, model and keyword arguments of a stem or a preset."""
    if name in stems():
        return name, model_info(name), dict(model_info(name).paper_size)
    info, kwargs = presets()[name]
    return next(stem for stem in stems() if model_info(stem) is info), info, dict(kwargs)


def first(output):
    """The logits of a model that returns more."""
    return output[0] if isinstance(output, tuple) else output


def ours(name: str, images: np.ndarray, labels: np.ndarray):
    _, info, kwargs = named(name)
    model = info.build(**kwargs)
    images = jax.device_put(images)
    variables = jax.jit(model.init)(jax.random.key(0), images[:1])
    params = variables.pop('params')
    rngs = {name: jax.random.key(i) for i, name in enumerate(('dropout', 'drop_path', 'mask', 'tokens'))}
    optimizer = optax.adamw(1e-3, weight_decay=0.05)

    @jax.jit
    def forward(params, state):
        return model.apply({'params': params, **state}, images)

    def step(params, state, slots):
        def loss(params):
            logits, new_state = model.apply(
                {'params': params, **state}, images, train=True, rngs=rngs, mutable=list(state)
            )
            return optax.softmax_cross_entropy_with_integer_labels(first(logits), labels).mean(), new_state

        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, slots = optimizer.update(grads, slots, params)
        return optax.apply_updates(params, updates), state, slots, value

    train = jax.jit(step, donate_argnums=(0, 1, 2))
    held = [jax.tree.map(jax.numpy.copy, params), variables, jax.jit(optimizer.init)(params)]

    def train_once():
        *held[:], value = train(*held)
        jax.block_until_ready(value)

    state = jax.tree.map(jax.numpy.copy, variables)
    return lambda: jax.block_until_ready(forward(params, state)), train_once


def theirs(name: str, images: np.ndarray, labels: np.ndarray):
    stem, _, kwargs = named(name)
    # its flex attention has no backward pass on a CPU
    upstream_module('vit_nd_masking').flex_attention_supported = lambda device: False
    model = build_upstream(replace(paper_model(stem), kwargs=kwargs) if name not in stems() else paper_model(stem))
    images = torch.from_numpy(np.moveaxis(images, -1, 1).copy())
    labels = torch.from_numpy(labels).long()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)

    def forward():
        model.eval()
        with torch.inference_mode():
            model(images)

    def train_once():
        model.train()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(first(model(images)), labels).backward()
        optimizer.step()

    return forward, train_once


def work(build: Callable, name: str, batch: int, orders: Connection) -> None:
    """A process: builds its side, then runs what it is told and answers with the milliseconds."""
    _, info, kwargs = named(name)
    shape = info.build(**kwargs).example_input().shape[1:]
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch, *shape)).astype(np.float32)
    runs = dict(zip(PASSES, build(name, images, rng.integers(0, kwargs.get('num_classes', 1000), batch)), strict=True))
    while (order := orders.recv()) is not None:
        start = time.perf_counter()
        runs[order]()
        orders.send(1e3 * (time.perf_counter() - start))


def measure(name: str, batch: int, rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds by pass and framework."""
    context = multiprocessing.get_context('spawn')
    sides = {}
    for side, build in (('torch', theirs), ('flax', ours)):
        mine, its = context.Pipe()
        process = context.Process(target=work, args=(build, name, batch, its), daemon=True)
        process.start()
        its.close()  # so that a process that dies ends the wait for its answer
        sides[side] = mine, process

    def run(side: str, kind: str) -> float:
        connection, _ = sides[side]
        connection.send(kind)
        return connection.recv()

    medians = {}
    for kind in PASSES:
        times: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(rounds + 1):
            for side in sides:
                run(side, kind)  # a call that does not count: caches are the other's
                if turn:
                    times[side].append(run(side, kind))
        medians[kind] = {side: statistics.median(measured) for side, measured in times.items()}
    for connection, process in sides.values():
        connection.send(None)
        process.join()
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', help='stems or presets; all stems if none is named')
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--record', action='store_true', help='write the ratios to docs/speed.csv')
    args = parser.parse_args()
    versions = f'jax {jax.__version__}, torch {torch.__version__}'
    table = Table(title=f'batch {args.batch} on {jax.default_backend()}, {versions}')
    for heading in ('model', 'pass', 'vit-pytorch ms', 'vit_flax ms', 'ratio'):
        table.add_column(heading, justify='left' if heading in ('model', 'pass') else 'right')
    for name in args.names or stems():
        ratios = {}
        for kind, medians in measure(name, args.batch, args.rounds).items():
            ratios[kind] = f'{medians["torch"] / medians["flax"]:.2f}'
            table.add_row(name, kind, f'{medians["torch"]:.0f}', f'{medians["flax"]:.0f}', ratios[kind])
        if args.record:
            record(name, {**ratios, 'batch': str(args.batch), 'cores': str(len(os.sched_getaffinity(0)))})
    Console().print(table)


def record(name: str, row: dict[str, str]) -> None:
    """Puts one model's row into docs/speed.csv, in place of an older one."""
    rows = {}
    if RECORD.exists():
        with RECORD.open() as lines:
            rows = {old['model']: old for old in csv.DictReader(lines)}
    rows[name] = {'model': name, **row}
    with RECORD.open('w', newline='') as lines:
        writer = csv.DictWriter(lines, rows[name], lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows[model] for model in sorted(rows))


if __name__ == '__main__':
    main()
