"""Forward and gradient of every model, compiled for a TPU in bfloat16 on a machine that has none.

    python benchmarks/compile_tpu.py [MODEL ...] [--topology v5e:1x1] [--batch 2] [--timeout 900] [--again]

needs `pip install 'vit-linen[plan]'`. A model has the widths and the image of its paper (`CARD.paper_size`), but no
more than two blocks of a kind, whose programs would be the same; they are scanned where they can be. Each is compiled
in a process of its own, so that a compiler that aborts or hangs is a row like any other. What `docs/compiled.csv` has
already is not compiled again, unless named or with `--again`: an interrupted sweep goes on.
"""

import argparse
import csv
import importlib.metadata
import inspect
import multiprocessing
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from vit_flax.registry import model_info, stems

RECORD = Path(__file__).parent.parent / 'docs' / 'compiled.csv'
COLUMNS = ('model', 'result', 'seconds', 'temporaries MiB', 'topology', 'batch', 'jax', 'libtpu')


def compiled(stem: str, topology: str, batch: int, answer: Connection) -> None:
    """A process: compiles one model and answers with seconds and bytes of temporaries, or with what went wrong."""
    from train.plan import topologies

    try:
        devices = topologies.parse(topology).devices()
        import jax
        import jax.numpy as jnp
        from jax.sharding import SingleDeviceSharding

        from vit_flax.blocks.backend import compiling_for
        from vit_flax.blocks.module import example_inputs

        info = model_info(stem)
        scanned = {'scan': True} if 'scan' in inspect.signature(info.build).parameters else {}
        model = info.build(**shallow(info.paper_size), **scanned, dtype=jnp.bfloat16)
        inputs = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((batch * x.shape[0], *x.shape[1:]), x.dtype), example_inputs(model)
        )
        rngs = {name: jax.random.key(0) for name in ('dropout', 'drop_path', 'mask', 'tokens')}
        variables = dict(jax.eval_shape(model.init, {'params': jax.random.key(0), **rngs}, *inputs))
        params = variables.pop('params')

        def loss(params, state, inputs):
            with compiling_for('tpu'):
                output, new = model.apply(
                    {'params': params, **state}, *inputs, train=True, rngs=rngs, mutable=list(state)
                )
            floats = [x for x in jax.tree.leaves(output) if jnp.issubdtype(x.dtype, jnp.floating)]
            return sum(jnp.square(x.astype(jnp.float32)).mean() for x in floats), new

        here = SingleDeviceSharding(devices[0])
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), (params, variables, inputs)
        )
        began = time.monotonic()
        program = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(*shapes).compile()
        answer.send((time.monotonic() - began, program.memory_analysis().temp_size_in_bytes))
    except Exception as error:
        answer.send(f'{type(error).__name__}: {" ".join(str(error).split())[:300]}')


def shallow(size: Mapping[str, Any]) -> dict[str, Any]:
    """A model's arguments with at most two blocks of a kind."""

    def at_most_two(value: Any) -> Any:
        if isinstance(value, Mapping):
            return shallow(value)
        if isinstance(value, tuple | list):  # of the stages, or of the blocks themselves
            return tuple(value[:2]) if len(value) == size.get('depth') else tuple(map(at_most_two, value))
        return min(value, 2) if isinstance(value, int) else value

    if 'vit_layer_indices' in size:  # which layer reads which: of networks that fit one another
        return dict(size)
    depth = size.get('depth')
    deep = {key for key in size if 'depth' in key or 'num_layers' in key}
    # one entry for each block
    deep |= {key for key, value in size.items() if isinstance(value, tuple | list) and len(value) == depth}
    return {
        key: at_most_two(value) if key in deep else shallow(value) if isinstance(value, Mapping) else value
        for key, value in size.items()
    }


def row_of(stem: str, topology: str, batch: int, timeout: float) -> dict[str, object]:
    """Compiles one model in a process of its own."""
    context = multiprocessing.get_context('spawn')
    mine, its = context.Pipe()
    process = context.Process(target=compiled, args=(stem, topology, batch, its), daemon=True)
    process.start()
    its.close()
    try:
        found = mine.recv() if mine.poll(timeout) else f'no end after {timeout:.0f} s'
    except EOFError:
        process.join()
        found = f'the compiler ended its process, exit code {process.exitcode}'
    process.kill()
    process.join()
    seconds, temporaries = ('', '') if isinstance(found, str) else (round(found[0], 1), round(found[1] / 2**20, 1))
    versions = [importlib.metadata.version(name) for name in ('jax', 'libtpu')]
    result = found if isinstance(found, str) else 'ok'
    return dict(zip(COLUMNS, (stem, result, seconds, temporaries, topology, batch, *versions), strict=True))


def read() -> dict[str, dict]:
    """The rows of the table, by model."""
    if not RECORD.exists():
        return {}
    with RECORD.open() as file:
        return {row['model']: row for row in csv.DictReader(file)}


def write(rows: dict[str, dict]) -> None:
    with RECORD.open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows[stem] for stem in sorted(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', nargs='*', metavar='MODEL', help='stems; all that the table has not by default')
    parser.add_argument('--topology', default='v5e:1x1')
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--timeout', type=float, default=900, help='seconds for one model')
    parser.add_argument('--again', action='store_true', help='also what the table has')
    args = parser.parse_args()
    for stem in args.models or stems():
        rows = read()
        if not args.models and not args.again and stem in rows:
            continue
        rows[stem] = row_of(stem, args.topology, args.batch, args.timeout)
        write(rows)
        print(f'{stem}: {rows[stem]["result"]} {rows[stem]["seconds"]}', flush=True)


if __name__ == '__main__':
    main()
