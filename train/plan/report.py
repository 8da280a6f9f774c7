"""A plan for people."""

import math
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from train.config import Config
from train.log import duration
from train.plan.chips import GIB
from train.plan.step import Exchange, Plan

# Layers below this part of all bytes are one row.
LEAST = 0.01


def report(config: Config, plan: Plan, screen: Console) -> None:
    """Prints a plan."""
    topology, chip = plan.topology, plan.topology.chip
    mesh = ' '.join(f'{axis}={size}' for axis, size in plan.mesh.items() if size > 1) or 'one device'
    args = config.model.args
    remat = args.get('remat', 'none')
    remat = {True: 'full', False: 'none'}.get(remat, remat)
    words = [*(['scan'] if args.get('scan') else []), *([f'remat={remat}'] if remat != 'none' else [])]
    parts = [f'optim.accumulate={config.optim.accumulate}'] if config.optim.accumulate > 1 else []
    per_chip = plan.batch_size / (plan.mesh['data'] * plan.mesh['fsdp'])
    screen.print(
        f'{config.model.name} on {topology.name}: {topology.size} x {chip.title}\n'
        f'{mesh}; {", ".join([f"batch {plan.batch_size:,} ({per_chip:g} a device)", plan.dtype, *words, *parts])}; '
        f'compiled in {duration(plan.compile_seconds)}',
        markup=False,
    )
    for line in plan.notes:
        screen.print(line, markup=False)
    screen.print(_memory(plan))
    if plan.exchanges is None:
        screen.print(f'the compiler refuses it: {plan.refused}', markup=False)
        return
    if plan.exchanges:
        screen.print(_collectives(plan))
    screen.print(_time(plan))
    if plan.times:
        screen.print(speed(plan), markup=False)
    if topology.simulated and topology.kind != 'cpu':
        screen.print(
            'The memory, the traffic and the collectives are those of the program that XLA:CPU makes for as many '
            'simulated devices:\nthe partitioning is the same on GPUs, but fusion and attention kernels differ; expect '
            'fewer temporaries and less traffic there.'
        )


def summary(plan: Plan) -> str:
    """A plan on one line."""
    fits = 'fits' if plan.fits else 'does not fit'
    needs = f'{plan.total / GIB:.2f} of {plan.topology.chip.memory / GIB:.2f} GiB, {fits}'
    return needs if plan.step_seconds is None else f'{needs}; {speed(plan)}'


def speed(plan: Plan) -> str:
    """Time and utilisation of a step at best."""
    seconds, used = plan.step_seconds or 0.0, plan.utilisation or 0.0
    return (
        f'at least {_ms(seconds)} ms a step, bound by {plan.bound}: at most {plan.batch_size / seconds:,.0f} images/s, '
        f'MFU {100 * used:.0f} %'
    )


def _table(*headings: str) -> Table:
    table = Table(*headings, box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = 'right'
    return table


def _memory(plan: Plan) -> Table:
    table = _table('memory of a chip', 'GiB')
    for name, size in plan.state.items():
        table.add_row(name, _gib(size))
    table.add_row('batch and padding', _gib(plan.arguments - sum(plan.state.values())))
    table.add_row('activations and temporaries', _gib(plan.temporaries))
    table.add_row('program and results', _gib(plan.program))
    left = plan.topology.chip.memory - plan.total
    verdict = f'it fits, {_gib(left)} are left' if plan.fits else 'it does NOT fit'
    table.add_section()
    table.add_row(f'together, of {_gib(plan.topology.chip.memory)}: {verdict}', _gib(plan.total))
    return table


def _collectives(plan: Plan) -> Table:
    exchanges: Sequence[Exchange] = plan.exchanges or ()
    table = _table('collective', 'layer', 'count', 'MiB', *(['ms', 'overlapped'] if plan.times else []))
    table.columns[1].justify = 'left'
    total = sum(exchange.bytes for exchange in exchanges)
    total_count = sum(kind['count'] for kind in (plan.collectives or {}).values())
    shown = [exchange for exchange in exchanges if exchange.bytes >= LEAST * total]
    small = [exchange for exchange in exchanges if exchange.bytes < LEAST * total]
    rows = [(one.kind, one.layer or 'loss and optimizer', [one]) for one in shown]
    rows += [('others', '', small)] if small else []
    for kind, layer, ones in [*rows, ('together', '', [*exchanges])]:
        if kind == 'together':
            table.add_section()
        seconds = sum(one.seconds for one in ones)
        overlapped = sum(one.overlapped for one in ones) / seconds if seconds else 0.0
        size = sum(one.bytes for one in ones)
        count = sum(one.count for one in ones) if layer else total_count if kind == 'together' else None
        times = [_ms(seconds), f'{100 * overlapped:.0f} %'] if plan.times else []
        table.add_row(kind, layer, '' if count is None else f'{count:,.0f}', f'{size / 2**20:,.2f}', *times)
    return table


def _time(plan: Plan) -> Table | str:
    chip = plan.topology.chip
    if not plan.times:
        return f'FLOPs of a chip: {plan.flops:.4g}; of all, for the model alone: {plan.needed:.4g}'
    table = _table('a step of a chip', 'amount', 'of', 'ms')
    moved = sum(exchange.bytes for exchange in plan.exchanges or ())
    for name, amount, rate in (
        ('compute', f'{plan.flops / 1e12:.3f} TFLOP', f'{chip.peak[plan.dtype] / 1e12:.0f} TFLOP/s'),
        ('memory', f'{(plan.traffic or 0) / 1e9:.2f} GB', f'{chip.bandwidth / 1e9:,.0f} GB/s'),
        ('interconnect', f'{moved / 1e9:.2f} GB', f'links of {chip.link / 1e9:.0f} GB/s'),
    ):
        table.add_row(name, amount, rate, _ms(plan.times[name]))
    return table


def _gib(size: float) -> str:
    if math.isnan(size):
        return '?'
    return f'{size / GIB:.2f}' if abs(size) > GIB / 10 else f'{size / GIB:.5f}'.rstrip('0').rstrip('.')


def _ms(seconds: float) -> str:
    return f'{1e3 * seconds:,.2f}' if seconds < 0.1 else f'{1e3 * seconds:,.0f}'
