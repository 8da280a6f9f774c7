"""A model as a program for processes that have neither this library nor its Python: StableHLO and ONNX.

Weights are arguments of a StableHLO program, flat by path, so that they stand beside it and can be others; an ONNX
program has them inside. The batch is a symbol in both.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jax import export as jax_export

from vit_flax.blocks.backend import compiling_for
from vit_flax.blocks.module import example_inputs

PLATFORMS = ('cpu', 'cuda', 'tpu')

# One form of every operation is lowered everywhere: a TPU's, which has neither a CPU's kernels nor cuDNN.
_EVERYWHERE = 'tpu'


def to_stablehlo(
    model: nn.Module,
    variables: Mapping[str, Any],
    *inputs: Any,
    platforms: Sequence[str] = PLATFORMS,
    batch: int | None = None,
) -> jax_export.Exported:
    """The program `(weights, *inputs) -> outputs` of a model in evaluation mode.

        program = to_stablehlo(model, variables)
        Path('vit.stablehlo').write_bytes(program.serialize(vjp_order=1))

    and elsewhere, with JAX alone,

        program = jax.export.deserialize(bytearray(Path('vit.stablehlo').read_bytes()))
        logits = program.call(weights, images)

    Args:
      model: whose program it is.
      variables: arrays, or their shapes; the program takes them as `flat(variables)`.
      inputs: arrays, or their shapes, as the model takes them; by default its `example_input()`.
      platforms: some of cpu, cuda and tpu; the artefact runs on these alone.
      batch: first axis of all inputs; None leaves it open.

    Raises:
      ValueError: an unknown platform.
    """
    unknown = [name for name in platforms if name not in PLATFORMS]
    if unknown or not platforms:
        raise ValueError(f'platforms={list(platforms)!r} must be some of {", ".join(PLATFORMS)}')
    shapes = jax.tree.map(lambda leaf: _shape_of(leaf, leaf.shape), flat(variables))

    def program(weights: Mapping[str, Array], *inputs: Any) -> Any:
        with compiling_for(platforms[0] if len(platforms) == 1 else _EVERYWHERE):
            return model.apply(unflatten_dict(dict(weights), sep='/'), *inputs)

    return jax_export.export(jax.jit(program), platforms=tuple(platforms))(
        shapes, *batched(inputs or example_inputs(model), batch)
    )


def to_onnx(
    path: str | Path, model: nn.Module, variables: Mapping[str, Any], *inputs: Any, batch: int | None = None
) -> None:
    """Writes the ONNX program `inputs -> outputs` of a model in evaluation mode, by jax2onnx.

    Its inputs are called `input_0` and so on, its outputs `output_0`, in the order of their leaves.

    Args:
      path: of the file; what is too large for it stands in `<path>.data`.
      model: whose program it is.
      variables: arrays.
      inputs, batch: as for `to_stablehlo`.

    Raises:
      ModuleNotFoundError: jax2onnx is not installed.
      Exception: what jax2onnx says of an operation that it cannot convert.
    """
    from jax2onnx import to_onnx as convert  # of the extra `onnx`

    logging.getLogger('onnx_ir').setLevel(logging.ERROR)  # shapes that it leaves out

    leaves, structure = jax.tree.flatten(batched(inputs or example_inputs(model), batch))

    def program(*leaves: Array) -> list[Array]:
        # products are of two matrices there, others jax2onnx writes as a sum of products of numbers
        with compiling_for('cpu'):
            return jax.tree.leaves(model.apply(variables, *jax.tree.unflatten(structure, leaves)))

    outputs = jax.eval_shape(program, *leaves)
    convert(
        program,
        leaves,
        model_name=type(model).__name__,
        input_names=[f'input_{i}' for i in range(len(leaves))],
        output_names=[f'output_{i}' for i in range(len(outputs))],
        return_mode='file',
        output_path=str(path),
    )


def flat(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables by path: `{'params/patch_embedding/kernel': ...}`."""
    return flatten_dict(dict(variables), sep='/')


def batched(inputs: Sequence[Any], batch: int | None) -> tuple[Any, ...]:
    """Shapes of inputs with another first axis, None for a symbol."""
    first: Any = jax_export.symbolic_shape('b')[0] if batch is None else batch
    shapes: tuple[Any, ...] = jax.tree.map(lambda leaf: _shape_of(leaf, (first, *leaf.shape[1:])), tuple(inputs))
    return shapes


def _shape_of(leaf: Any, shape: Sequence[Any]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(shape), jax.dtypes.canonicalize_dtype(leaf.dtype))
