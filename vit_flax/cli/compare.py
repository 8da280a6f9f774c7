"""Runs a checkpoint in PyTorch and in Flax, and names the first layer at which they differ

Both sides get the same weights and the same images, in float64 by default. The table shows the largest difference at
every module that both sides have, in the order in which Flax runs them; `>` marks the first whose input agrees and
whose output does not. Exit code 0 if the outputs agree, 1 if they do not, 2 if they cannot be compared.

  python -m vit_flax compare vit.pth --model vit --preset vit_pytorch_base_patch16_224 --arg num_classes=10

compares with vit-pytorch's own class. For your own copy of a model name your class, and where its names are not
vit-pytorch's a file of rows:

  python -m vit_flax compare my_vit.pth --model vit --arg dim=192 ... --torch-class my_vit.py:MyViT --rows rows.toml

"""

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_flax.cli.errors import UserError, as_user_error
from vit_flax.cli.shared import add_model_arguments, add_source_argument
from vit_flax.printing import shown

if TYPE_CHECKING:
    import numpy as np

    from vit_flax.cli.arguments import Chosen
    from vit_flax.cli.rows import Rows
    from vit_flax.cli.taps import Tap

TOLERANCES = {'float64': 1e-9, 'float32': 1e-5}
ROWS_HELP = """the rows file, TOML or JSON:
  ignore = ["aux_head"]                        parts of the torch model that Flax has not
  [names]                                      theirs = vit-pytorch's
  "blocks.{i}.attn" = "transformer.layers.{i}.0"
  '^stem\\.(\\d+)' = 'to_patch_embedding.\\1'     a regular expression begins with ^
A row replaces the beginning of a name, of tensors and of modules; the longest that fits is taken. A worked example
is examples/compare_my_model in the repository."""

__doc__ += ROWS_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'checkpoint', metavar='CHECKPOINT', help=".pth, .safetensors or .npz with torch's names, or Flax's"
    )
    add_model_arguments(parser)
    parser.add_argument(
        '--torch-class', metavar='WHERE:CLASS', help="package.module:Class or file.py:Class; vit-pytorch's"
    )
    parser.add_argument(
        '--torch-arg', action='append', default=[], metavar='KEY=VALUE', help='argument of the torch class alone'
    )
    parser.add_argument('--rows', metavar='FILE', help="your torch model's names -> vit-pytorch's, see above")
    parser.add_argument('--key', default='', metavar='NAME', help='read this part of a nested file: state_dict')
    parser.add_argument(
        '--images', default='2', metavar='N|FILE.npy', help='random ones, or an array [b h w c] (default: %(default)s)'
    )
    parser.add_argument('--dtype', default='float64', choices=[*TOLERANCES])
    parser.add_argument('--tolerance', type=float, metavar='X', help='relative (default: 1e-9, in float32 1e-5)')
    add_source_argument(parser)


def run(args: argparse.Namespace) -> int:
    import jax

    from vit_flax.cli import taps
    from vit_flax.cli.arguments import chosen_model
    from vit_flax.cli.convert import check_source
    from vit_flax.cli.rows import read_rows

    tolerance = TOLERANCES[args.dtype] if args.tolerance is None else args.tolerance
    if not 0 <= tolerance < float('inf'):
        raise UserError(f'--tolerance {tolerance} must be a finite number, and must not be negative')
    chosen = chosen_model(args)
    args.source = check_source(args.source, chosen.build())
    rows = read_rows(args.rows)
    with jax.enable_x64(args.dtype == 'float64'):
        sides = _Sides(args, chosen, rows)
        torch_calls = sides.record_torch()
        check_finite(torch_calls[-1].outputs)
        found = taps.run_beside(
            sides.flax, sides.variables, sides.images, torch_calls, sides.modules, sides.own_names, tolerance
        )
    first = taps.first_difference(found, tolerance)
    sys.stdout.write(report(found, first, tolerance))
    lonely = sorted(sides.with_parameters - {tap.call.name for tap in found})
    lonely = [name for name in lonely if not rows.ignored(name)]
    if lonely:
        sys.stdout.write(f'not compared, as no Flax module has its name: {", ".join(lonely)}\n')
    if sides.left_out:
        sys.stdout.write(f'not given to the torch class, which has no such argument: {", ".join(sides.left_out)}\n')
    sys.stdout.write(verdict(found, first, tolerance, args.dtype))
    if first is None:
        return 0
    where = taps.explain(first, found, torch_calls, tolerance)
    sys.stdout.write(f'there: {where}\n' if where else '')
    return 1


class _Sides:
    """Both models with the weights of the file, and the images.

    Attributes:
      flax: the Flax model, its trunk not scanned.
      variables: its variables.
      modules: path of a Flax module -> vit-pytorch's name.
      own_names: name of a module of the torch model -> vit-pytorch's.
      images: `[b h w c]`.
      with_parameters: modules of the torch model that hold parameters themselves.
      left_out: arguments that the torch class does not take.
    """

    def __init__(self, args: argparse.Namespace, chosen: 'Chosen', rows: 'Rows'):
        import numpy as np

        from vit_flax.cli import torch_side
        from vit_flax.cli.arguments import OURS, literal, split_arguments
        from vit_flax.cli.convert import are_flax_paths, say, to_torch_names
        from vit_flax.weights import from_torch
        from vit_flax.weights.convert import flat
        from vit_flax.weights.files import read_arrays
        from vit_flax.weights.source import prefix_of
        from vit_flax.weights.sources import OWN, SOURCES
        from vit_flax.weights.table import build_table

        _need_torch()
        dtype = np.dtype(args.dtype)
        arrays = read_arrays(args.checkpoint, args.key)
        check_numbers(arrays)
        given = {key: value for key, value in chosen.kwargs.items() if key not in OURS}
        fields = getattr(chosen.info.build, '__dataclass_fields__', {})
        self.flax = chosen.build(**{key: False for key in OURS if key in fields})
        self.layout = self.flax.layout.split()

        own = {key: literal(text) for key, text in split_arguments(args.torch_arg, '--torch-arg').items()}
        make = torch_side.torch_class(args.torch_class, chosen.stem, chosen.info.build.__name__)
        with _default_dtype(args.dtype):
            model, self.left_out = torch_side.build(make, given, own)
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        only_in_file = {name for name in arrays if name not in expected and rows.ignored(name)}
        arrays = {name: array for name, array in arrays.items() if name not in only_in_file}
        arrays = flat(arrays, say)
        if prefix := prefix_of(arrays, expected):
            say(f'read {sum(name.startswith(prefix) for name in arrays)} arrays below {shown(repr(prefix))}')
            arrays = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        translated = rows.translate([*expected, *only_in_file])
        if are_flax_paths(args.checkpoint, arrays, args.source):
            upstream = to_torch_names(chosen.build(), arrays, args.source)
            with as_user_error('the torch class'):
                _check_names(translated, upstream)
            ignored = {name: tensor.numpy() for name, tensor in model.state_dict().items() if rows.ignored(name)}
            arrays = {name: upstream[target] for name, target in translated.items()} | ignored
        torch_side.load(model, arrays)
        self.torch = model.to(_torch_dtype(args.dtype))
        state_dict = {
            target: arrays[name].astype(dtype) if is_floating(arrays[name]) else arrays[name]
            for name, target in translated.items()
        }
        with as_user_error('Flax' + (' (after --rows)' if args.rows else '')):
            self.variables = from_torch(self.flax, state_dict, source=args.source)
            self.modules = build_table(self.flax, self.flax.example_input()).modules
        modules = [name for name, _ in model.named_modules()]
        source = SOURCES[args.source.partition('/')[0]]
        if source.name in OWN:
            self.own_names = module_names(translated, modules, rows)
        else:
            ours = source.array_names(self.flax, translated.values())
            holders = {own: ours[target] for own, target in translated.items() if target in ours}
            self.own_names = owners(holders, modules)
        self.with_parameters = torch_side.parameter_owners(model)
        self.images = read_images(args.images, self.flax.example_input().shape).astype(dtype)

    def record_torch(self) -> list[Any]:
        import numpy as np

        from vit_flax.cli import torch_side

        images = np.moveaxis(self.images, -1, 1) if 'c' in self.layout else self.images
        with _default_dtype(str(self.images.dtype)):
            return torch_side.record(self.torch, np.ascontiguousarray(images))


def is_floating(array: 'np.ndarray') -> bool:
    """Whether these are floating point numbers, of JAX's narrow kinds too."""
    import jax.numpy as jnp

    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def check_numbers(arrays: Mapping[str, 'np.ndarray']) -> None:
    """Refuses weights that are no numbers: wherever both sides are NaN, nothing is compared.

    Raises:
      UserError: there is a NaN.
    """
    import numpy as np

    bad = [shown(name) for name, array in arrays.items() if is_floating(array) and np.isnan(array).any()]
    if bad:
        more = f' and {len(bad) - 5} more' if len(bad) > 5 else ''
        raise UserError(f'the checkpoint cannot be compared: NaN in {", ".join(bad[:5])}{more}')


def check_finite(outputs: Sequence['np.ndarray']) -> None:
    """Refuses outputs of the torch model of which nothing can be said.

    Raises:
      UserError: some are infinite or NaN.
    """
    import numpy as np

    bad = sum(int((~np.isfinite(array)).sum()) for array in outputs)
    if bad:
        total = sum(array.size for array in outputs)
        raise UserError(
            f'nothing can be compared: {bad} of the {total} numbers that the torch model gives are infinite or NaN'
        )


def module_names(translated: Mapping[str, str], modules: Sequence[str], rows: 'Rows') -> dict[str, str]:
    """The torch model's modules in vit-pytorch's names: by the rows, or by the tensors that they hold."""
    names = {name: rows.rename(name) for name in modules if name and not rows.ignored(name)}
    for own, target in translated.items():
        owner, _, leaf = own.rpartition('.')
        target_owner, _, target_leaf = target.rpartition('.')
        if owner and leaf == target_leaf:
            names[owner] = target_owner
    return names


def owners(holders: Mapping[str, str], modules: Sequence[str]) -> dict[str, str]:
    """The torch model's modules in our names: what the arrays below them have in common.

    Args:
      holders: names of arrays there to ours, where several there may be parts of one here.
      modules: their names.
    """
    number = Counter(holders.values())
    found = {}
    for module in filter(None, modules):
        below = [ours for own, ours in holders.items() if own.startswith(f'{module}.')]
        held = [ours.split('.')[:-1] for ours in below]
        together = [parts[0] for parts in takewhile(lambda parts: len({*parts}) == 1, zip(*held, strict=False))]
        # one part of an array is less than what has the whole
        if together and len(below) == sum(number[ours] for ours in {*below}):
            found[module] = '.'.join(together)
    return found


def read_images(text: str, shape: tuple[int, ...]) -> 'np.ndarray':
    """As many random images as asked for, always the same ones, or those of a file.

    Raises:
      UserError: neither a positive number nor a .npy file of floating point numbers with this shape but the first axis.
    """
    import numpy as np

    if text.isdecimal():
        if not 1 <= len(text.lstrip('0')) <= 4:
            raise UserError(f'--images {shown(text, 40)}: at least one and at most 9999')
        return np.random.default_rng(0).normal(size=(int(text), *shape[1:]))
    try:
        if not Path(text).is_file():
            raise UserError(f'--images {text!r} must be a number of images or a file .npy')
        with warnings.catch_warnings(action='ignore'):
            images = np.load(text, allow_pickle=False)
    except UserError:
        raise
    except Exception as error:  # whatever the readers of .npy and of zip archives meet
        raise UserError(f'--images {shown(text)}: {shown(str(error) or type(error).__name__, 300)}') from error
    if not isinstance(images, np.ndarray) or images.dtype.kind != 'f':
        raise UserError(f'--images {text} must be one array of floating point numbers, normalised as for training')
    if images.ndim != len(shape) or images.shape[-1] != shape[-1] or not len(images):
        raise UserError(f'--images {text} has shape {images.shape}, expected (b, *{shape[1:]}): channels come last')
    if not np.isfinite(images).all():
        raise UserError(f'--images {text} has numbers that are infinite or NaN')
    return images


def report(found: Sequence['Tap'], first: 'Tap | None', tolerance: float) -> str:
    """The table."""
    from vit_flax.cli.text import table

    lines = [['', 'Flax', 'torch', 'shape', 'largest difference', 'relative', '']]
    for tap in found:
        outputs = tap.outputs
        mark = '>' if tap is first else ' ' if outputs.within(tolerance) or not outputs.comparable else '!'
        note = 'in another order' if outputs.reordered else ''
        if not outputs.comparable:
            note = 'another shape in torch'
        elif mark == '!':
            note = '' if first else 'computed in another way'
        numbers = [f'{value:.1e}' if outputs.comparable else '-' for value in (outputs.absolute, outputs.relative)]
        shape = ' '.join(map(str, tap.shape))
        lines.append([mark, tap.label, tap.call.name or '(the model)', shape, *numbers, note])
    return table(lines, '<<<<>><')


def verdict(found: Sequence['Tap'], first: 'Tap | None', tolerance: float, dtype: str) -> str:
    """One line."""
    whole = found[-1].outputs.relative
    if first is None:
        return f'EQUAL: {len(found)} layers compared; the outputs differ by {whole:.1e}, within {tolerance:.0e}\n'
    small = dtype == 'float64' and 1e-10 < whole < 1e-6
    hint = (
        ' (of the size of float32 rounding: is something computed in float32? Then --tolerance 1e-6)' if small else ''
    )
    if not first.path:
        where = 'the layers themselves agree, what the model does between them does not'
    else:
        where = (
            f'the first layer whose input agrees and whose output does not is {first.label} '
            f'(torch: {first.call.name}), by {first.outputs.relative:.1e}'
        )
    return f'DIFFERENT: the outputs differ by {whole:.1e}, more than {tolerance:.0e}{hint}; {where}\n'


def _check_names(translated: Mapping[str, str], upstream: Mapping[str, Any]) -> None:
    missing = sorted(set(translated.values()) - set(upstream))
    unused = sorted(set(upstream) - set(translated.values()))
    if missing or unused:
        raise UserError(
            f"names differ from the Flax model's: only in torch {missing[:5]}, only in Flax {unused[:5]}; "
            '--rows renames and ignores'
        )


def _need_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UserError("compare needs torch, which is missing: pip install 'vit-linen[torch]'") from error


def _torch_dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)


@contextmanager
def _default_dtype(name: str) -> Iterator[None]:
    """Tables that the torch class makes itself are made in this dtype."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(_torch_dtype(name))
    try:
        yield
    finally:
        torch.set_default_dtype(before)
