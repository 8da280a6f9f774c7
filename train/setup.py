"""From a config to what can run: mesh, model, initial state and the two jitted steps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from train.config import Config
from train.embeddings import embedder
from train.errors import UserError, in_a_line, is_out_of_memory
from train.layers import depths
from train.model import build
from train.objectives.objective import Batch, Objective, Variables
from train.optim import optimizer, paths
from train.scale import Scale
from train.sharding import (
    abstract,
    batch_sharding,
    check_batch,
    fallbacks,
    given_sharding,
    make_mesh,
    onto_this_host,
    platform_of,
    state_sharding,
    traced_for,
)
from train.state import TrainState, initial_state
from train.step import make_eval_step, make_train_step, sound
from vit_flax.blocks.backbone import Backbone
from vit_flax.wrappers.recorder import Recorder

# Left alone, XLA computes a product with a matrix that has to be gathered piece by piece, as the pieces come, and sums
# them in memory: of ViT-B/16 on eight v5e chips a step then reads and writes 181 GB on each, gathered at once 94 GB, in
# less memory, and the gathering overlaps with the product before.
COMPILER_OPTIONS = {'tpu': {'xla_jf_spmd_threshold_for_windowed_einsum_mib': '1000000'}}


@dataclass(frozen=True)
class Setup:
    """What a run computes with.

    Attributes:
      mesh: over all devices.
      model: the network.
      scale: bytes of images to what the network takes.
      parameters: how many numbers it has.
      state: shapes, dtypes and shardings of the train state.
      given: arrays that training reads beside its batches, see `Objective.given`; their shapes, dtypes and shardings on
        devices that are not here.
      batch: shapes, dtypes and shardings of a batch with what is given.
      initial: makes the state before the first step.
      train_step, eval_step: see `train.step`; the first eats the state that it is given.
      sound: see `train.step`.
      features: the network's features `[b d]` of a batch, its labels and weights, whole on every device; for probes.
      fallbacks: a line for each kind of parameter that the mesh does not divide, see `train.sharding`.
      gather: copies a tree of arrays onto devices of this host, see `train.sharding.onto_this_host`.
    """

    mesh: jax.sharding.Mesh
    model: Backbone
    scale: Scale
    parameters: int
    state: TrainState
    given: Mapping[str, Any]
    batch: Batch
    initial: Callable
    train_step: jax.stages.Wrapped
    eval_step: Callable
    sound: Callable
    features: Callable
    fallbacks: list[str]
    gather: Callable


def set_up(config: Config, devices: Sequence[jax.Device] | None = None) -> Setup:
    """Checks everything that can be checked without computing.

    Args:
      config: the run.
      devices: those of the mesh, if not all that are here; see `make_mesh`.

    Raises:
      UserError: mesh, batch, model and data do not fit together.
    """
    source, objective = config.data, config.objective
    mesh = make_mesh(config.mesh, devices)
    shape = config.augment.shape(source)
    check_batch(mesh, config.batch_size, config.optim.accumulate, shape)
    model = build(config.model, shape, len(source.classes))
    scale = Scale(*config.augment.normalisation(source))
    given = objective.given()
    given = jax.tree.map(_spread, given, given_sharding(given, mesh, config.mesh))
    rows: Batch = {
        name: jax.ShapeDtypeStruct((config.batch_size, *each), dtype, sharding=batch_sharding(mesh, 1 + len(each)))
        for name, each, dtype in (('image', shape, source.dtype), ('label', (), np.int32))
    } | abstract(given)
    key = jax.random.key(config.seed)
    try:
        # One row is enough to initialise with.
        one = scale({'image': np.zeros((1, *shape), np.uint8), 'label': np.zeros(1, np.int32)})
        # Compiled functions of the same arguments are traced once, here, where what is wrong with a model shows.
        init = jax.jit(
            traced_for(mesh, lambda: objective.init(objective.module(model, scale), key, one), config.batch_size)
        )
        params = jax.eval_shape(init)['params']
        by_depth = config.optim.name == 'muon' or config.optim.layer_decay < 1
        deep = depths_of(objective, model, params, one) if by_depth else None
        tx = optimizer(config.optim, config.steps, params, deep)
        part = config.batch_size // config.optim.accumulate
        step = make_train_step(objective, model, tx, scale, config)
        train_step = traced_for(mesh, step, part, config.optim.gradient_reduction)

        def initial() -> TrainState:
            return initial_state(init(), tx, ema=config.optim.ema > 0)

        shapes = jax.eval_shape(initial)
        shardings = state_sharding(shapes, mesh, config.mesh)
        state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
        jax.eval_shape(train_step, state, rows)
    except Exception as error:  # a model meets sizes that it cannot be built with in its own ways
        if isinstance(error, UserError) or is_out_of_memory(error):
            raise
        reason = in_a_line(error)
        raise UserError(f'model {config.model.name!r} cannot be trained like this: {reason}') from error
    whole = NamedSharding(mesh, PartitionSpec())
    return Setup(
        mesh=mesh,
        model=model,
        scale=scale,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        state=state,
        given=given,
        batch=rows,
        initial=jax.jit(initial, out_shardings=shardings),
        train_step=jax.jit(
            train_step,
            donate_argnums=0,
            in_shardings=(shardings, None),
            out_shardings=(shardings, None),
            compiler_options=COMPILER_OPTIONS.get(platform_of(mesh)),
        ),
        eval_step=jax.jit(traced_for(mesh, make_eval_step(objective, model, scale, config), config.batch_size)),
        sound=jax.jit(sound, out_shardings=whole),
        features=jax.jit(
            traced_for(mesh, _features(objective, model, scale, shape), config.batch_size), out_shardings=whole
        ),
        fallbacks=[*fallbacks(params, mesh, config.mesh), *gathered_heads(model, mesh, shape)],
        gather=partial(onto_this_host, mesh=mesh, config=config.mesh),
    )


def gathered_heads(model: Backbone, mesh: jax.sharding.Mesh, shape: tuple[int, ...]) -> list[str]:
    """A line if attention cannot be split by its heads as `mesh.tensor` asks."""
    tensor = mesh.shape['tensor']
    if tensor == 1:
        return []
    images = jax.ShapeDtypeStruct((1, *shape), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    _, maps = jax.eval_shape(Recorder(model).apply, variables, images)
    # whatever is in front, the heads stand before queries and keys
    heads = sorted({leaf.shape[-3] for leaf in jax.tree.leaves(maps)})
    if all(number % tensor == 0 for number in heads):
        return []
    listed = ' and '.join(map(str, heads))
    return [f'attention of {listed} heads: mesh.tensor={tensor} does not divide them: gathered in every layer']


def _spread(array: np.ndarray, sharding: NamedSharding) -> Array | jax.ShapeDtypeStruct:
    """An array that every host has, over the mesh."""
    if not sharding.device_set <= set(jax.devices()):
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _features(objective: Objective, model: Backbone, scale: Scale, shape: tuple[int, ...]) -> Callable:
    """What probes are given, see `Setup.features`."""

    def features(state: TrainState, batch: Batch) -> tuple[Array, Array, Array]:
        embed = embedder(model, shape)
        found = embed(objective.network(state.evaluated), scale(batch)['image'])
        return found, batch['label'], batch['weight']

    return features


def depths_of(objective: Objective, model: Backbone, params: Variables, batch: Batch) -> dict[str, np.ndarray]:
    """How deep in the network each parameter is; what the objective adds lies behind it, as a head does."""
    found = {objective.inside + path: depth for path, depth in depths(model, batch['image']).items()}
    deepest = max(int(depth.max()) for depth in found.values())
    return {path: found.get(path, np.array(deepest)) for path in paths(params)}
