"""One model: its arguments, what goes in and comes out, presets, quirks

NAME is a model or a preset; `models` lists the models.
"""

import argparse
import importlib
import inspect
import re
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from vit_flax.cli.text import columns, table

# More are not listed.
MANY = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('name', metavar='NAME')


def run(args: argparse.Namespace) -> int:
    import jax

    from vit_flax.blocks.module import example_inputs
    from vit_flax.cli.arguments import find, options
    from vit_flax.flops import flops

    stem, info, preset = find(args.name)
    module = importlib.import_module(info.build.__module__)
    write = sys.stdout.write
    address = info.arxiv if info.arxiv.startswith('http') else f'arXiv:{info.arxiv}'
    write(f'{args.name}: {info.build.__name__} of vit_flax.models.{stem}\n')
    write(f'{info.title}' + (f', {address}' if info.arxiv else '') + '\n\n')
    about = inspect.getdoc(module) or ''
    write((about.partition('\n\n')[2] or about) + '\n')

    write('\narguments\n')
    write(arguments_table(options(info), preset))

    of_preset = args.name != stem
    shown = preset if of_preset else info.paper_size
    model = info.build(**shown)
    examples = example_inputs(model)
    shapes = ', '.join(_shape(leaf.shape) for leaf in jax.tree.leaves(examples))
    write(f'\ninput\n  {info.takes}: {shapes} at the size below\n')
    output, variables = jax.eval_shape(lambda *inputs: model.init_with_output(jax.random.key(0), *inputs), *examples)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables.get('params', {})))
    leaves = jax.tree.leaves(output)
    write(f'output\n  {first_sentence(info.build)}\n  {", ".join(_shape(leaf.shape) for leaf in leaves)}\n')

    forward = flops(model.apply, variables, *examples)
    write(f'\nsize{"" if of_preset else " that the paper leads with"}: {parameters:,} parameters')
    write(f', {number(forward)}FLOPs of a forward pass\n')
    write(f'  {sizes(shown) or "all arguments as above"}\n')
    write(weights_of(args.name))
    if len(info.presets) > MANY and not of_preset:
        write(f"\npresets\n  {len(info.presets)}: `models '*{next(iter(info.presets))[:4]}*'` lists those of a kind\n")
    elif 0 < len(info.presets) <= MANY:
        write('\npresets\n' + table([[f'  {name}', sizes(kwargs)] for name, kwargs in info.presets.items()]))
    found = quirks(inspect.getsource(module))
    if found:
        write('\nwhere upstream departs from its paper or itself\n')
        width = _width() - 4
        write(''.join('  - ' + '\n    '.join(columns(quirk, width)) + '\n' for quirk in found))
    return 0


def number(value: float) -> str:
    """With three digits and a prefix of the SI, and a space behind: `8.5 G`."""
    for prefix, unit in (('T', 1e12), ('G', 1e9), ('M', 1e6), ('k', 1e3)):
        if value >= unit:
            return f'{value / unit:.3g} {prefix}'
    return f'{value:.3g} '


def weights_of(name: str) -> str:
    """What timm has of pretrained weights for one of its names, and how their images are prepared."""
    from vit_flax.weights import timm

    base, _, wanted = name.partition('.')
    tags = timm.published().get(base, {}).get('tags', {})
    rows = [
        [f'  {base}.{tag}', ', '.join(f'{key} {value}' for key, value in entry['images'].items())]
        for tag, entry in tags.items()
        if wanted in ('', tag)
    ]
    return '\npretrained weights, for --source timm\n' + table(rows) if rows else ''


def arguments_table(known: Mapping[str, Any], preset: Mapping[str, Any]) -> str:
    """Name, type, default and meaning of each argument; the meaning in as many lines as it takes."""
    from vit_flax.cli.arguments import type_name

    heads = []
    for key, option in known.items():
        if key in preset:
            default = f'{preset[key]!r}'
        elif option.required:
            default = 'required'
        else:
            default = getattr(option.default, '__name__', None) or repr(option.default)
        heads.append([f'  {key}', type_name(option.type), default])
    widths = [max(map(len, column)) for column in zip(*heads, strict=True)]
    room = max(30, _width() - sum(widths) - 2 * len(widths))
    rows = []
    for head, option in zip(heads, known.values(), strict=True):
        first, *more = columns(option.help, room)
        rows += [[*head, first], *(['', '', '', line] for line in more)]
    return table(rows)


def first_sentence(build: Any) -> str:
    """The first paragraph of the class's docstring, on one line."""
    return ' '.join((inspect.getdoc(build) or '').partition('\n\n')[0].split())


def quirks(source: str) -> list[str]:
    """The `# upstream:` comments of a file."""
    comments = re.findall(r'# upstream: (.*(?:\n\s*# .*)*)', source)
    texts = [re.sub(r'\s*\n\s*# ', ' ', comment) for comment in comments]
    return [text[0].upper() + text[1:] for text in dict.fromkeys(texts)]


def sizes(kwargs: Mapping[str, Any]) -> str:
    """Arguments of a model on one line."""
    return ' '.join(f'{key}={_plain(value)}' for key, value in kwargs.items())


def _plain(value: Any) -> str:
    """A value as `--arg` takes it; settings of a part in braces; of a module its class."""
    if isinstance(value, Mapping):
        return f'{{{sizes(value)}}}'
    if isinstance(value, tuple | list):
        return '(' + ','.join(map(_plain, value)) + (',)' if len(value) == 1 else ')')
    return str(value) if isinstance(value, int | float | str | None) else type(value).__name__


def _shape(shape: tuple[int, ...]) -> str:
    return f'[{" ".join(map(str, shape))}]'


def _width() -> int:
    return min(140, shutil.get_terminal_size((120, 0)).columns)
