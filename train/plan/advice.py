"""What to change where a step does not fit, and the fastest layout that does: each is compiled, none is guessed."""

import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from train.config import Config
from train.errors import UserError
from train.model import options
from train.plan.step import Plan, plan_step
from train.plan.topologies import Topology

# Dotted options and their values.
Changes = Mapping[str, Any]


def applied(config: Config, changes: Changes) -> Config:
    """A config with some options changed."""
    for key, value in changes.items():
        part, _, name = key.rpartition('.')
        if part == 'model':
            model = dataclasses.replace(config.model, args={**config.model.args, name: value})
            config = dataclasses.replace(config, model=model)
        elif part:
            config = dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **{name: value})})
        else:
            config = dataclasses.replace(config, **{name: value})
    return config


def steps_down(config: Config, topology: Topology, plan: Plan) -> Iterator[Changes]:
    """Changes that need less and less memory, each with all those before it."""
    changes: dict[str, Any] = {}
    known, mesh = options(config.model.name), config.mesh
    shared = topology.size // (mesh.tensor * mesh.seq)
    # Where the state alone is much, it is split first, which costs less time than computing twice.
    heavy = plan.arguments > topology.chip.memory / 4
    for first in (heavy, not heavy):
        if first and mesh.fsdp < shared:
            changes |= _mesh(config, fsdp=shared)
            yield dict(changes)
        if not first and 'remat' in known:
            most = remats(config)[-1]
            if config.model.args.get('remat') not in (True, most):
                changes['model.remat'] = most
                if 'scan' in known and not config.model.args.get('scan'):
                    changes['model.scan'] = True
                yield dict(changes)
    parts = config.optim.accumulate
    while not config.objective.whole and config.batch_size % (2 * parts * shared) == 0:
        parts *= 2
        changes['optim.accumulate'] = parts
        yield dict(changes)
    if mesh.tensor == 1 and mesh.seq == 1:
        for tensor in (4, 8):
            if shared % tensor == 0:
                yield changes | _mesh(config, fsdp=shared // tensor, tensor=tensor)
    rows = config.batch_size
    while rows % (2 * shared) == 0:
        rows //= 2
        changes = {key: value for key, value in changes.items() if key != 'optim.accumulate'}
        yield {**changes, 'batch_size': rows}


def _mesh(config: Config, **sizes: int) -> dict[str, int]:
    """The options of a mesh that has `data` of what the other axes leave."""
    sizes, mesh = {'data': 0, **sizes}, config.mesh
    return {f'mesh.{axis}': size for axis, size in sizes.items() if axis == 'fsdp' or size != getattr(mesh, axis)}


def remats(config: Config) -> list[Any]:
    """What `model.remat` may be, from the least to the most that is computed twice; none of a model without it."""
    known = options(config.model.name)
    if 'remat' not in known:
        return []
    return [word for part in typing.get_args(known['remat'].type) for word in typing.get_args(part)]


def layouts(config: Config, topology: Topology) -> Iterator[Changes]:
    """Meshes, and for each that nothing is computed twice and that everything is."""
    size = topology.size
    meshes = {(1, 1), (size, 1)}
    meshes |= {(8, 1)} if size % 8 == 0 else set()
    meshes |= {(size // 4, 4)} if size % 4 == 0 else set()
    for fsdp, tensor in sorted(meshes, key=lambda mesh: (mesh[1], mesh[0])):
        mesh = _mesh(config, fsdp=fsdp, tensor=tensor, seq=1)
        for remat in remats(config)[:: max(1, len(remats(config)) - 1)] or [None]:
            yield mesh | ({} if remat is None else {'model.remat': remat})


def advise(
    config: Config, topology: Topology, plan: Plan, say: Callable[[Changes, Plan | str], None]
) -> tuple[Changes, Plan] | None:
    """The first of `steps_down` that fits, compiled; None if none does.

    Args:
      config: what does not fit.
      topology: on what.
      plan: of the config.
      say: is told of each that is tried.
    """
    for changes in steps_down(config, topology, plan):
        tried = _tried(config, topology, changes)
        say(changes, tried)
        if isinstance(tried, Plan) and tried.fits:
            return changes, tried
    return None


def search(
    config: Config, topology: Topology, say: Callable[[Changes, Plan | str], None]
) -> tuple[Changes, Plan] | None:
    """The fastest of `layouts` that fits, compiled; None if none does. Of equal ones that of the least memory."""
    found: list[tuple[Changes, Plan]] = []
    impossible: list[Changes] = []
    for changes in layouts(config, topology):
        mesh = {key: value for key, value in changes.items() if key.startswith('mesh.')}
        if mesh in impossible:
            continue
        tried = _tried(config, topology, changes)
        say(changes, tried)
        if isinstance(tried, str) or sum(tried.state.values()) > topology.chip.memory:
            impossible.append(mesh)
        elif tried.fits:
            found.append((changes, tried))
    return min(found, key=lambda one: (one[1].step_seconds or one[1].flops, one[1].total), default=None)


def _tried(config: Config, topology: Topology, changes: Changes) -> Plan | str:
    """A plan, or why there is none."""
    try:
        return plan_step(applied(config, changes), topology)
    except UserError as error:
        return str(error)
