"""Exports every model as StableHLO and ONNX, runs what was written, and writes docs/export.md.

    python -m venv onnx && onnx/bin/pip install -e '.[torch,onnx]' vit-pytorch==1.26.11
    onnx/bin/python benchmarks/export.py [MODEL ...]

Each is the first case of `parity_tests/cases`, a small model. A model that is not named keeps its row. jax2onnx wants
an orbax-checkpoint older than the trainer's: hence an environment of its own.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import numpy as np  # noqa: E402

from parity_tests.case import Case, first_cases  # noqa: E402
from vit_flax.blocks.module import example_inputs  # noqa: E402
from vit_flax.cli.export import difference, noise  # noqa: E402
from vit_flax.export import batched, flat, to_onnx, to_stablehlo  # noqa: E402

RECORD, PAGE = ROOT / 'docs' / 'export.json', ROOT / 'docs' / 'export.md'
HEADER = """# Export

`python -m vit_flax export` writes a model as a program that runs without this library. Here the first parity case of
every model was exported, read again, run on two samples of noise (on a CPU), and compared with the model: the largest
difference, relative to the largest output, in float32; written by `python benchmarks/export.py`. A StableHLO program
is one for CPUs, CUDA and TPUs. *b* is a batch of any size, 2 one that is fixed.

| model | StableHLO | batch | ONNX | batch | |
|---|--:|---|--:|---|---|
"""


def main() -> None:
    rows = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for case in first_cases():
        if not sys.argv[1:] or case.stem in sys.argv[1:]:
            rows[case.stem] = row = exported(case)
            print(case.stem, row, flush=True)
            RECORD.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + '\n')
    lines = [f'| `{stem}` | {" | ".join(rows[stem])} |\n' for stem in sorted(rows)]
    PAGE.write_text(HEADER + ''.join(lines))


def exported(case: Case) -> list[str]:
    """The cells of a model."""
    model = case.flax_model()
    # arrays that come with a batch of their own are left to the model's example
    own = case.listed is None and not case.call
    given = [jax.ShapeDtypeStruct(spec.shape, np.float32) for spec in case.inputs] if own else example_inputs(model)
    examples = batched(given, 2)
    variables = jax.jit(model.init)(jax.random.key(0), *noise(examples))
    inputs = noise(examples)
    wanted = jax.tree.leaves(jax.jit(model.apply)(variables, *inputs))

    def in_stablehlo(batch: int | None) -> list[Any]:
        program = to_stablehlo(model, variables, *examples, batch=batch)
        read = jax.export.deserialize(bytearray(program.serialize(vjp_order=1)))
        return jax.tree.leaves(read.call(flat(variables), *inputs))

    def in_onnx(batch: int | None) -> list[Any]:
        import onnxruntime

        onnxruntime.set_default_logger_severity(4)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, 'model.onnx')
            to_onnx(path, model, variables, *examples, batch=batch)
            session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
            leaves = jax.tree.leaves(inputs)
            return session.run(None, {f'input_{i}': np.asarray(leaf) for i, leaf in enumerate(leaves)})

    cells, notes = [], []
    for name, run in (('StableHLO', in_stablehlo), ('ONNX', in_onnx)):
        figure, batch, note = measured(run, wanted)
        cells += [figure, batch]
        notes += [f'{name}: {note}'] if note else []
    return [*cells, '; '.join(notes)]


def measured(run: Callable[[int | None], list[Any]], wanted: list[Any]) -> tuple[str, str, str]:
    """The difference, for which batch, and what went wrong with any batch or with this one."""
    problem = ''
    for batch, name in ((None, 'b'), (2, '2')):
        try:
            found = run(batch)
        except Exception as error:
            problem = f'{type(error).__name__}: {" ".join(str(error).split())[:160]}'.replace('|', '/')
            continue
        error = max(difference(one, two) for one, two in zip(found, wanted, strict=True))
        return f'{error:.0e}', name, problem
    return '-', '-', problem


if __name__ == '__main__':
    main()
