"""All models: name, class and paper

PATTERN also finds presets, such as timm's names; those with a dot, timm's tags of pretrained weights: '*dinov2*.*'.
With --parameters also the number of parameters at the size the paper leads with (nothing is computed or allocated,
but every model is traced, which takes a second each).
"""

import argparse
import sys

from vit_flax.cli.errors import UserError, nearest
from vit_flax.cli.text import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('pattern', nargs='?', default='*', metavar='PATTERN', help="names to list, such as '*simple*'")
    parser.add_argument('--parameters', action='store_true', help="count parameters at the paper's size")


def run(args: argparse.Namespace) -> int:
    from vit_flax.registry import list_models, model_info, sized, stems

    names = list(stems()) if args.pattern == '*' else list_models(args.pattern)
    if not names:
        raise UserError(f'no model is called {args.pattern!r}: {nearest(args.pattern, stems())}')
    rows = [['name', 'class', *(['parameters'] if args.parameters else []), 'arXiv', 'paper']]
    for name in names:
        found = sized(name)
        info = model_info(name) if found is None else found[0]
        number = [f'{count_parameters(name):,}'] if args.parameters else []
        arxiv = info.arxiv if not info.arxiv.startswith('http') else ''
        rows.append([name, info.build.__name__, *number, arxiv or '-', info.title])
    sys.stdout.write(table(rows, '<<>' if args.parameters else ''))
    return 0


def count_parameters(name: str) -> int:
    """Parameters of a preset, or at the paper's size."""
    import jax

    from vit_flax.blocks.module import example_inputs
    from vit_flax.registry import create_model, model_info, stems

    model = create_model(name, **(model_info(name).paper_size if name in stems() else {}))
    shapes = jax.eval_shape(model.init, jax.random.key(0), *example_inputs(model))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes['params']))
