"""Weights from PyTorch to Flax and back, bit for bit

The direction follows from what IN holds: names of torch (transformer.layers.0.0.to_qkv.weight) or paths of Flax
(params/transformer/block_0/attention/to_qkv/kernel). With --source they are those of timm, Hugging Face, Google and
others, instead of torch's. The suffix of OUT says what is written: .pth, .pt, .bin (only torch's names), .safetensors,
.npz, .msgpack, or without suffix an orbax directory (only Flax's).

  python -m vit_flax convert vit.pth vit.npz --model vit --preset vit_pytorch_base_patch16_224 --arg num_classes=10

Every name must be used and every parameter filled; what is around a state dict ({'model': ...}, module.) is taken off,
and said. OUT appears whole or not at all.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from vit_flax.cli.errors import UserError, as_user_error
from vit_flax.cli.shared import add_model_arguments, add_source_argument
from vit_flax.printing import shown

if TYPE_CHECKING:
    import numpy as np


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('input', metavar='IN')
    parser.add_argument('output', metavar='OUT')
    add_model_arguments(parser)
    add_source_argument(parser)
    parser.add_argument(
        '--rows', metavar='FILE', help='your names for torch -> those of the source; see compare --help'
    )
    parser.add_argument('--key', default='', metavar='NAME', help='read this part of a nested file: state_dict')
    parser.add_argument('--force', action='store_true', help='replace OUT if it is there')


def run(args: argparse.Namespace) -> int:
    import jax

    from vit_flax.cli.arguments import chosen_model
    from vit_flax.cli.rows import read_rows
    from vit_flax.weights.files import kind_to_write, read_arrays, write_arrays

    chosen = chosen_model(args)
    source = check_source(args.source, chosen.build())
    kind = kind_to_write(args.output, force=args.force)
    if os.path.realpath(args.input) == os.path.realpath(args.output):
        raise UserError(f'OUT is IN ({args.input}): name another file')
    rows = read_rows(args.rows)
    arrays = read_arrays(args.input, args.key)
    of_flax = are_flax_paths(args.input, arrays, source)
    refused = 'torch' if not of_flax else 'orbax'
    if kind == refused:
        holds, instead = ('Flax variables', 'no suffix') if refused == 'torch' else ("torch's names", '.pth')
        raise UserError(f'OUT {args.output}: {kind} is not for {holds}: use .safetensors, .npz or {instead}')
    with jax.enable_x64(True):  # so that 64 bits stay 64 bits
        if of_flax:
            if args.rows:
                raise UserError("--rows: only for weights with torch's names; these are Flax's")
            result = to_torch_names(chosen.build(), arrays, source)
        else:
            renamed = {target: arrays[name] for name, target in rows.translate(arrays).items()}
            result = to_flax_paths(chosen.build(), renamed, source, say)
        write_arrays(args.output, result, force=args.force)
    before, after = ('Flax', 'torch') if of_flax else ('torch', 'Flax')
    sys.stdout.write(
        f'{shown(args.input)}: {len(arrays)} arrays of {before}\n{shown(args.output)}: {len(result)} arrays of {after} '
        f'({type(chosen.build()).__name__})\n'
    )
    return 0


def check_source(source: str | None, model: Any) -> str:
    """The source that is asked for, by default the model's own."""
    from vit_flax.weights.sources import SOURCES

    if source is not None and source.partition('/')[0] not in SOURCES:
        raise UserError(f'--source {source!r} is unknown: use one of {", ".join(SOURCES)}')
    return source or model.torch_source


def say(line: str) -> None:
    """A line on stderr about what is done with a file beside what was asked for."""
    sys.stderr.write(f'{line}\n')


def are_flax_paths(path: str, arrays: Mapping[str, Any], source: str) -> bool:
    """Whether the names are those of our variables (`params/...`) or of the source.

    Raises:
      UserError: neither.
    """
    from vit_flax.weights.sources import OWN, SOURCES, recognised

    if not arrays:
        raise UserError(f'{path} holds no arrays')
    tops = {name.partition('/')[0] for name in arrays if '/' in name}
    foreign = source not in OWN and SOURCES[source.partition('/')[0]].matches(arrays)
    if not tops or foreign:
        return False
    other = recognised(arrays)
    of_other = other and other.partition(' ')[0] not in OWN
    if not of_other and 'params' in tops and not any('.' in name for name in arrays if name.startswith('params/')):
        return True
    if of_other or SOURCES[source].matches(arrays):
        return False  # a state dict in a checkpoint, or one whose source the library names
    raise UserError(
        f'{path} is nested and has no `params` of Flax: give --key NAME with one of {", ".join(sorted(tops))}'
    )


def to_flax_paths(
    model: Any,
    state_dict: Mapping[str, 'np.ndarray'],
    source: str | None = None,
    report: Callable[[str], object] | None = None,
) -> dict[str, 'np.ndarray']:
    """A state dict as `params/...`, `batch_stats/...`."""
    import numpy as np
    from flax.traverse_util import flatten_dict

    from vit_flax.weights import from_torch

    with as_user_error('IN'):
        variables = from_torch(model, state_dict, source=source or model.torch_source, report=report)
    return {name: np.asarray(leaf) for name, leaf in flatten_dict(variables, sep='/').items()}


def to_torch_names(
    model: Any, arrays: Mapping[str, 'np.ndarray'], source: str | None = None
) -> dict[str, 'np.ndarray']:
    """Flax variables as a state dict; those of a training run too, whose other parts are left out."""
    from flax.traverse_util import unflatten_dict

    from vit_flax.blocks.module import example_inputs
    from vit_flax.weights import to_torch
    from vit_flax.weights.formats.names import without_prefix
    from vit_flax.weights.table import build_table

    with as_user_error('IN'):
        arrays = without_prefix(arrays, 'collections/')
        known = {'/'.join(entry.path) for entry in build_table(model, *example_inputs(model)).entries}
        collections = {name.partition('/')[0] for name in known}
        unexpected = sorted(name for name in arrays if name.partition('/')[0] in collections and name not in known)
        if unexpected:
            more = f' and {len(unexpected) - 5} more' if len(unexpected) > 5 else ''
            raise UserError(
                f'IN: the model has no {", ".join(map(shown, unexpected[:5]))}{more}: do the arguments fit?'
            )
        return to_torch(
            model,
            unflatten_dict({name: arrays[name] for name in known & arrays.keys()}, sep='/'),
            source=source or model.torch_source,
        )
