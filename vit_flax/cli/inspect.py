"""What a file of weights holds: names, shapes, dtypes, whose names they are, and which models they fit

FILE is .pth, .pt or .bin of PyTorch, .safetensors, .npz, .msgpack of flax, or an orbax directory. Only shapes are read
where the format can. Names that differ in a number alone are shown once: layers.{0..11}.0.to_qkv.weight. The models at
the end are a hint, found by names alone; nothing is done with it.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vit_flax.cli.text import fold, table

if TYPE_CHECKING:
    from vit_flax.weights.files import Spec

# Characters of a name in the table.
MAX_WIDTH = 200
# A model's names have dozens of words; each is looked for in all sources.
MAX_WORDS = 500

# A name without its numbers, and the rank of the array.
Kinds = frozenset[tuple[str, int]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('file', metavar='FILE')
    parser.add_argument('--key', default='', metavar='NAME', help='part of a nested file, such as state_dict')
    parser.add_argument('--no-models', action='store_true', help='do not look for models that fit, which takes seconds')


def run(args: argparse.Namespace) -> int:
    from vit_flax.printing import shown
    from vit_flax.weights.files import read_contents
    from vit_flax.weights.sources import OWN, recognised

    contents = read_contents(args.file, args.key)
    file = shown(args.file)
    specs = contents.specs
    total = sum(spec.size for spec in specs.values())
    dtypes = sorted(Counter(spec.dtype for spec in specs.values()).items(), key=lambda kind: (-kind[1], kind[0]))
    kinds = ', '.join(dtype if len(dtypes) == 1 else f'{count} {dtype}' for dtype, count in dtypes)
    sys.stdout.write(f'{file}: {contents.kind}, {len(specs)} arrays of {total:,} numbers: {kinds or "none"}\n')
    rows = [
        [
            f'  {shown(entry.name, MAX_WIDTH)}',
            entry.value.dtype,
            _shape(entry.value),
            f'x {entry.count}' if entry.count > 1 else '',
        ]
        for entry in fold(specs)
    ]
    sys.stdout.write(table(rows))
    for name, text in contents.others.items():
        sys.stdout.write(f'  {shown(name, MAX_WIDTH)}: {text} (no array)\n')
    sys.stdout.flush()
    nested = sorted({name.partition('/')[0] for name in specs if '/' in name and '.' in name})
    if nested:
        parts = [shown(name) for name in nested]
        sys.stdout.write(f'nested: --key {parts[0]} shows one part (there are {shown(", ".join(parts))})\n')
    source = recognised(specs)
    if source:
        sys.stdout.write(f'names of {source}\n')
    if specs and not nested and not args.no_models and source.partition(' ')[0] in ('', *OWN):
        sys.stdout.write(hint(of_a_model(specs)))
    return 0


def of_a_model(specs: Mapping[str, 'Spec']) -> dict[str, 'Spec']:
    """Of a training run's checkpoint the model's own variables; all of any other file."""
    if not any(name.startswith('params/') for name in specs):
        return dict(specs)
    plain = {name.removeprefix('collections/'): spec for name, spec in specs.items()}
    return {name: spec for name, spec in plain.items() if name.startswith(('params/', 'batch_stats/'))}


def hint(specs: Mapping[str, 'Spec']) -> str:
    """A line about the models whose names fit, or come near."""
    wanted = _kinds({name: len(spec.shape) for name, spec in specs.items()})
    missing = _missing_words(specs)
    apart: dict[str, int] = {}

    def trace(chosen: list[str]) -> None:
        for stem in chosen:
            found = _model_kinds(stem, specs)
            if found is not None:
                apart[stem] = len(wanted ^ found)

    trace([stem for stem, count in missing.items() if count == 0])
    fitting = [stem for stem, count in apart.items() if count == 0]
    if fitting:
        return f'models whose names fit: {", ".join(fitting)}\n'
    if not apart:
        trace(sorted(missing, key=missing.__getitem__)[:5])
    near = sorted((count, stem) for stem, count in apart.items() if count <= len(wanted) / 3)[:3]
    if near:
        names = ', '.join(f'{stem} ({count} kinds of name differ)' for count, stem in near)
        return f'no model has just these names; the nearest: {names}\n'
    return 'no model has these names\n'


def _missing_words(specs: Mapping[str, 'Spec']) -> dict[str, int]:
    """Models by how many words of the names their sources lack, a quarter at most: tracing all would take a minute.

    Names without a word, such as `0.weight`, fit none.
    """
    from vit_flax.registry import stems

    words = {word for name in specs for word in re.findall(r'[a-z_]{3,}', re.sub(r'\d+', '', name))}
    # PyTorch's own words stand in no source of ours
    words -= {'weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked', 'params', 'batch_stats'}
    if not 0 < len(words) <= MAX_WORDS:
        return {}
    package = Path(__file__).parents[1]
    shared = ''.join(path.read_text() for path in (package / 'blocks').glob('*.py'))
    missing = {}
    sources = {path.stem: path.read_text() for path in (package / 'models').glob('*.py')}
    for stem in stems():
        used, text = [stem], shared
        for one in used:
            text += sources[one]
            imports = r'from vit_flax\.models(?:\.(\w+) import| import (\w+))'
            others = {before or after for before, after in re.findall(imports, sources[one])}
            used += sorted(others - {*used})
        count = sum(word.strip('_') not in text for word in words)
        if count <= len(words) / 4:
            missing[stem] = count
    return missing


def _model_kinds(stem: str, specs: Mapping[str, 'Spec']) -> Kinds | None:
    """The names of a model of two blocks where that is possible: traced in a moment, and numbers do not count."""
    import inspect

    import numpy as np

    from vit_flax.blocks.module import example_inputs
    from vit_flax.registry import model_info
    from vit_flax.weights.table import build_table

    info = model_info(stem)
    is_flax = all('/' in name for name in specs)
    scan = not is_flax or any('/block/' in name for name in specs)
    extra = {'scan': scan} if 'scan' in inspect.signature(info.build).parameters else {}
    shallow = {'depth': 2} if isinstance(info.paper_size.get('depth'), int) else {}
    for shorter in (shallow, {}):
        try:
            model = info.build(**{**info.paper_size, **shorter, **extra})
            entries = build_table(model, *example_inputs(model))
            break
        except ValueError:  # another argument holds one entry for each block
            continue
    else:
        return None
    if is_flax:
        return _kinds({'/'.join(entry.path): len(entry.shape) for entry in entries.entries})
    ranks = {name: len(entry.torch_shape) for entry in entries.entries for name in entry.torch_names}
    return _kinds(ranks | {name: np.ndim(value) for name, value in entries.constants.items()})


def _kinds(ranks: Mapping[str, int]) -> Kinds:
    return frozenset((re.sub(r'\d+', '#', name), rank) for name, rank in ranks.items())


def _shape(spec: 'Spec') -> str:
    return f'[{" ".join(map(str, spec.shape))}]'
