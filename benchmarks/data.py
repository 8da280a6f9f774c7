"""Images per second of the data sets, as the trainer reads and augments them: no network, no device.

    python benchmarks/data.py [SOURCE ...] [--path SOURCE=FOLDER ...] [--threads 0 1 4] [--workers 2] [--record]

Sources without their files are left out. Every figure is the median over the rounds, in which all combinations take
turns, so that a busy machine disturbs all of them; in brackets the microseconds of a core that an image took, which it
does not disturb. Batches of 128 (16 of photographs). `--record` writes the table into docs/data.md.
"""

import argparse
import itertools
import os
import re
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from train import sources
from train.config import Loader
from train.data.augment import Augment
from train.data.stream import train_batches
from train.errors import UserError
from train.sources.source import Record, Source

PAGE = Path(__file__).parent.parent / 'docs' / 'data.md'

SMALL = {
    'none': Augment(),
    'crop, flip': Augment(pad_crop=4, flip=0.5),
    '+ RandAugment': Augment(pad_crop=4, flip=0.5, randaugment=2),
}
PHOTOGRAPHS = {
    'middle': Augment(image_size=224),
    'resized crop, flip': Augment(image_size=224, resized_crop=(0.08, 1.0), flip=0.5),
    '+ RandAugment': Augment(image_size=224, resized_crop=(0.08, 1.0), flip=0.5, randaugment=2),
}
OPTIONS: dict[str, dict] = {'synthetic': {'image_size': 224}}


def chosen(names: list[str], paths: dict[str, str]) -> dict[str, tuple[Source, Sequence[Record]]]:
    """The data sets that can be read here, and their records."""
    found = {}
    for name in names:
        kind = sources.find(name)
        options = {**OPTIONS.get(name, {}), **({'path': paths[name]} if name in paths else {})}
        try:
            source = kind(**options)
            source.check()
            found[name] = source, source.records('train')
        except UserError as error:
            sys.stderr.write(f'{name} is left out: {error}\n')
    return found


def speed(records: Sequence[Record], augment: Augment, loader: Loader, seconds: float) -> tuple[float, float]:
    """Images per second, once what was prepared ahead is used up, and microseconds of a core for each."""
    batch_size = 16 if augment.image_size else 128
    batches = train_batches(records, augment, seed=0, batch_size=batch_size, steps=10**6, loader=loader)
    try:
        for _ in range(2 + loader.prefetch):
            next(batches)
        began, busy, count = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - began < seconds or count < 2 * loader.prefetch:
            next(batches)
            count += 1
        images = count * batch_size
        return images / (time.perf_counter() - began), 1e6 * (time.process_time() - busy) / images
    finally:
        batches.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('sources', nargs='*', default=sources.names())
    parser.add_argument('--path', action='append', default=[], metavar='SOURCE=FOLDER')
    parser.add_argument('--threads', type=int, nargs='*', default=[0, 1, 4])
    parser.add_argument('--workers', type=int, nargs='*', default=[2])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--seconds', type=float, default=2.0, help='of one measurement')
    parser.add_argument('--record', action='store_true', help=f'write the table into {PAGE.name}')
    args = parser.parse_args()

    loaders = {f'{n} thread{"s" * (n != 1)}': Loader(threads=n, workers=0, prefetch=4) for n in args.threads}
    loaders |= {f'{n} process{"es" * (n != 1)}': Loader(threads=1, workers=n, prefetch=4) for n in args.workers}
    rows = [
        (name, records, kind, augment)
        for name, (source, records) in chosen(args.sources, dict(path.split('=', 1) for path in args.path)).items()
        for kind, augment in (SMALL if 0 < source.shape[0] < 100 else PHOTOGRAPHS).items()
    ]
    measured: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    console = Console(stderr=True)
    for turn in range(args.rounds):
        for (name, records, kind, augment), (who, loader) in itertools.product(rows, loaders.items()):
            console.print(f'round {turn + 1}: {name}, {kind}, {who}', end='\r')
            found = speed(records, augment, loader, args.seconds)
            measured.setdefault((name, kind, who), []).append(found)

    lines = [f'| data | augmentation | {" | ".join(loaders)} |', f'|---|---|{"--:|" * len(loaders)}']
    for name, _, kind, _ in rows:
        figures = [cell(measured[name, kind, who], loader) for who, loader in loaders.items()]
        lines.append(f'| {name} | {kind} | {" | ".join(figures)} |')
    command = f'python benchmarks/data.py {shlex.join(hidden(arg) for arg in sys.argv[1:])}'
    table = f'`{command}`, {os.cpu_count()} cores, {os.getloadavg()[1]:.0f} processes busy on them:\n\n' + '\n'.join(
        lines
    )
    sys.stdout.write(table + '\n')
    if args.record:
        begin, end = '<!-- measured -->', '<!-- end -->'
        text = PAGE.read_text()
        PAGE.write_text(re.sub(f'{begin}.*{end}', lambda _: f'{begin}\n{table}\n{end}', text, flags=re.DOTALL))


def cell(found: list[tuple[float, float]], loader: Loader) -> str:
    """Both figures; what other processes needed is not known."""
    speeds, cores = (statistics.median(figures) for figures in zip(*found, strict=True))
    return f'{round(speeds, -1):,.0f}' + (f' ({cores:,.0f} µs)' if not loader.workers else '')


def hidden(arg: str) -> str:
    """Where the files were is nobody else's business."""
    name, equals, _ = arg.partition('=')
    return f'{name}=FOLDER' if equals else arg


if __name__ == '__main__':
    main()
