"""A model as a program that runs without this library: StableHLO, ONNX, or weights alone

NAME_OR_FILE is a model or a preset, whose weights are drawn, or a file of weights, of PyTorch's or Flax's names, whose
model --model or --preset names. OUT becomes a folder:

  model.stablehlo      for jax.export.deserialize; runs on every platform of --platform, for any batch
  model.onnx           for onnxruntime, weights inside, for any batch; larger ones beside it, in model.onnx.data
  weights.safetensors  the arguments of model.stablehlo by name
  config.json          model, arguments, shapes of inputs and outputs, versions

  python -m vit_flax export vit.pth served --model vit --preset vit_pytorch_base_patch16_224 --format stablehlo

What was written is read again and run, and compared with the model. OUT appears whole or not at all.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_flax.cli.errors import UserError, as_user_error
from vit_flax.cli.shared import add_model_arguments
from vit_flax.printing import shown

if TYPE_CHECKING:
    import numpy as np

    from vit_flax.cli.arguments import Chosen

FORMATS = ('stablehlo', 'onnx', 'safetensors')
CONFIG = 'config.json'
# of the largest output: more is no rounding of float32
TOLERANCE = 1e-4
# Samples of noise that are compared.
SAMPLES = 2

HOW_TO = {
    'stablehlo': """import jax
from safetensors.numpy import load_file

program = jax.export.deserialize(bytearray(open('{out}/model.stablehlo', 'rb').read()))
outputs = program.call(load_file('{out}/weights.safetensors'), {inputs})
""",
    'onnx': """import onnxruntime

session = onnxruntime.InferenceSession('{out}/model.onnx')
outputs = session.run(None, {{{feed}}})
""",
    'safetensors': """from safetensors.numpy import load_file

weights = load_file('{out}/weights.safetensors')
""",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('input', metavar='NAME_OR_FILE')
    parser.add_argument('output', metavar='OUT')
    parser.add_argument('--format', choices=FORMATS, default='stablehlo', help='default: %(default)s')
    add_model_arguments(parser)
    parser.add_argument(
        '--platform', default='cpu,cuda,tpu', metavar='NAMES', help='of a StableHLO program (default: %(default)s)'
    )
    parser.add_argument('--batch', type=int, metavar='B', help='a fixed one, for a model that needs it')
    parser.add_argument('--key', default='', metavar='NAME', help='read this part of a nested file: state_dict')
    parser.add_argument('--seed', type=int, default=0, help='of the weights that are drawn (default: %(default)s)')
    parser.add_argument('--force', action='store_true', help='replace OUT if it is there')


def run(args: argparse.Namespace) -> int:
    import jax

    from vit_flax.weights.files import swap
    from vit_flax.weights.formats.common import told

    if args.batch is not None and args.batch < 1:
        raise UserError(f'--batch {args.batch} must be at least 1')
    out = Path(args.output)
    _check_output(out, args.force)
    _check_packages(args.format)
    chosen, source = _chosen(args)
    model = chosen.build()
    variables = _variables(args, chosen)
    config = _config(args, chosen, variables, source)
    with told(out, 'written'):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix='.export.', dir=out.parent) as folder:
            new = Path(folder, 'new')
            new.mkdir()
            error = _write(args, model, variables, new)
            (new / CONFIG).write_text(json.dumps(config, indent=2, default=str) + '\n', encoding='utf-8')
            if out.exists():
                swap(new, out)
            else:
                os.replace(new, out)
    size = sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
    write = sys.stdout.write
    write(f'{shown(args.output)}: {", ".join(sorted(os.listdir(out)))} ({type(model).__name__}, {size:,} parameters)\n')
    if error is not None:
        write(f'read again and run on noise: differs from the model by {error:.1g} of the largest output\n')
    names = [f'input_{i}' for i in range(len(config['inputs']))]
    names = ['images'] if len(names) == 1 else names
    feed = ', '.join(f"'input_{i}': {name}" for i, name in enumerate(names))
    write('\n' + HOW_TO[args.format].format(out=args.output, inputs=', '.join(names), feed=feed))
    return 0


def _chosen(args: argparse.Namespace) -> tuple['Chosen', str]:
    """The model, and where its weights come from."""
    from vit_flax.cli.arguments import chosen_model
    from vit_flax.registry import list_models

    if args.input in list_models() and not os.path.exists(args.input):
        if args.model:
            raise UserError(f'--model {args.model!r}: {args.input!r} names the model already')
        args.model = args.input
        if args.input in _stems() and not args.preset and not args.arg:
            args.preset = 'paper'
        return chosen_model(args), f'drawn, seed {args.seed}'
    if not os.path.exists(args.input):
        from vit_flax.cli.errors import nearest

        raise UserError(f'{args.input!r} is neither a file nor a model: {nearest(args.input, list_models())}')
    if not (args.model or args.preset):
        raise UserError(f'of which model are the weights in {args.input}? Give --model NAME or --preset NAME')
    return chosen_model(args), Path(args.input).name


def _stems() -> tuple[str, ...]:
    from vit_flax.registry import stems

    return tuple(stems())


def _variables(args: argparse.Namespace, chosen: 'Chosen') -> Mapping[str, Any]:
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import unflatten_dict

    from vit_flax.blocks.module import example_inputs
    from vit_flax.cli.convert import are_flax_paths, say, to_flax_paths, to_torch_names
    from vit_flax.weights.files import read_arrays

    model = chosen.build()
    if args.input == args.model:
        with as_user_error(f'model {chosen.stem!r}'):
            examples = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), example_inputs(model))
            drawn: Mapping[str, Any] = jax.jit(model.init)(jax.random.key(args.seed), *examples)
        return drawn
    arrays = read_arrays(args.input, args.key)
    if are_flax_paths(args.input, arrays, model.torch_source):
        arrays = to_torch_names(model, arrays)  # which checks every name and shape
    return unflatten_dict(to_flax_paths(model, arrays, report=say), sep='/')


def _config(args: argparse.Namespace, chosen: 'Chosen', variables: Mapping[str, Any], source: str) -> dict[str, Any]:
    import jax

    import vit_flax
    from vit_flax.blocks.module import example_inputs
    from vit_flax.export import batched

    model = chosen.build()
    inputs = batched(example_inputs(model), args.batch or 1)
    with as_user_error(f'model {chosen.stem!r}'):
        outputs = jax.eval_shape(model.apply, variables, *inputs)

    def described(tree: Any) -> list[dict[str, Any]]:
        first = args.batch or 'b'
        return [
            {'shape': [first, *leaf.shape[1:]] if leaf.ndim else [], 'dtype': leaf.dtype.name}
            for leaf in jax.tree.leaves(tree)
        ]

    return {
        'model': chosen.stem,
        'arguments': dict(chosen.kwargs),
        'weights': source,
        'format': args.format,
        **({'platforms': args.platform.split(',')} if args.format == 'stablehlo' else {}),
        'inputs': described(inputs),
        'outputs': described(outputs),
        'versions': {'vit_flax': vit_flax.__version__, 'jax': jax.__version__},
    }


def _write(args: argparse.Namespace, model: Any, variables: Mapping[str, Any], folder: Path) -> float | None:
    """Writes the files of a format and returns by how much the program that was read again differs from the model."""
    import jax
    import numpy as np

    from vit_flax.blocks.module import example_inputs
    from vit_flax.export import batched, flat, to_onnx, to_stablehlo
    from vit_flax.weights.files import write_arrays

    weights = {name: np.asarray(leaf) for name, leaf in flat(variables).items()}
    if args.format != 'onnx':
        write_arrays(folder / 'weights.safetensors', weights)
    if args.format == 'safetensors':
        return None
    inputs = noise(batched(example_inputs(model), args.batch or SAMPLES))
    wanted = jax.tree.leaves(jax.jit(model.apply)(variables, *inputs))
    if args.format == 'stablehlo':
        path = folder / 'model.stablehlo'
        with as_user_error('--platform'):
            platforms = args.platform.split(',')
            program = to_stablehlo(model, variables, platforms=platforms, batch=args.batch)
        path.write_bytes(program.serialize(vjp_order=1))
        here = jax.devices()[0].platform
        if {'gpu': 'cuda'}.get(here, here) not in platforms:
            return None  # it does not run here
        found = jax.tree.leaves(jax.export.deserialize(bytearray(path.read_bytes())).call(weights, *inputs))
    else:
        path = folder / 'model.onnx'
        try:
            to_onnx(path, model, variables, batch=args.batch)
            import onnxruntime

            session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
            leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(inputs)]
            found = session.run(None, {f'input_{i}': leaf for i, leaf in enumerate(leaves)})
        except Exception as error:
            raise UserError(f'this model has no ONNX form: {error}') from error
    worst = max(difference(one, two) for one, two in zip(found, wanted, strict=True))
    if not worst < TOLERANCE:
        raise UserError(f'the program that was written differs from the model by {worst:.1g} of the largest output')
    return worst


def noise(shapes: Any) -> Any:
    """Arrays of these shapes: normal numbers, indices 0, and no masking."""
    import jax
    import numpy as np

    draw = np.random.default_rng(0)

    def one(leaf: Any) -> 'np.ndarray':
        if np.issubdtype(leaf.dtype, np.floating):
            return draw.normal(size=leaf.shape).astype(leaf.dtype)
        return np.ones(leaf.shape, leaf.dtype) if leaf.dtype == bool else np.zeros(leaf.shape, leaf.dtype)

    return jax.tree.map(one, shapes)


def difference(found: Any, wanted: Any) -> float:
    """The largest of two arrays, relative to the largest element wanted."""
    import numpy as np

    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    if found.shape != wanted.shape:
        return float('inf')
    return float(np.abs(found - wanted).max(initial=0) / max(np.abs(wanted).max(initial=0), 1e-30))


def _check_output(out: Path, force: bool) -> None:
    if not os.path.lexists(out):
        return
    if not force:
        raise UserError(f'{shown(str(out))} is there already: --force replaces it')
    if not (out / CONFIG).is_file() or not {'format', 'inputs'} <= _config_of(out).keys():
        raise UserError(f'{shown(str(out))} is no folder that this command wrote: it is not replaced')


def _config_of(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / CONFIG).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# Modules that a format is written and checked with, and the extra that brings them.
NEEDED = {
    'stablehlo': (('flatbuffers', 'safetensors'), 'export'),
    'onnx': (('jax2onnx', 'onnxruntime'), 'onnx'),
    'safetensors': (('safetensors',), 'export'),
}


def _check_packages(format: str) -> None:
    from importlib.util import find_spec

    modules, extra = NEEDED[format]
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise UserError(f"--format {format} needs {' and '.join(missing)}: pip install 'vit-linen[{extra}]'")
