"""The training step of a config, compiled for a topology: its memory, its exchanges, and how long it takes at best."""

import dataclasses
import math
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from train.config import Config
from train.flops import model_flops
from train.plan import hlo
from train.plan.chips import GIB
from train.plan.topologies import Topology
from train.setup import Setup, set_up
from train.sharding import abstract
from train.state import TrainState
from vit_flax.flops import count


@dataclass(frozen=True)
class Exchange:
    """All collectives of one kind in one layer, in one step, of one chip.

    Attributes:
      kind: such as 'all-gather'.
      layer: path of the module, with a star for the number of a block; '' for the optimizer and the loss.
      count: how many it takes part in; the compiler combines small ones of several layers.
      bytes: of the arrays that are gathered, reduced or moved.
      seconds: at the bandwidth of the links.
      overlapped: part of these seconds in which the compiler lets the chip compute.
    """

    kind: str
    layer: str
    count: float
    bytes: float
    seconds: float
    overlapped: float


@dataclass(frozen=True)
class Plan:
    """A training step on one chip of a topology. What the compiler refused has no program, and only what can be told
    without one.

    Attributes:
      topology: the chips.
      mesh: sizes of its axes.
      batch_size: over all chips.
      dtype: of the computation.
      state: bytes by part: parameters, optimizer and so on.
      arguments: bytes of state and batch, as they lie in memory.
      temporaries: bytes of activations and scratch.
      program: bytes of instructions and of results that are not the state.
      flops: of the compiled program.
      needed: FLOPs that the model needs in a step, of all chips together: without what is recomputed.
      traffic: bytes that are read from memory and written to it.
      collectives: how many of each kind, and the bytes of their arrays; None if there is no program.
      exchanges: the same by layer.
      refused: the compiler's reason, '' if there is a program.
      compile_seconds: what the compiler took.
      notes: what the mesh does not divide.
    """

    topology: Topology
    mesh: Mapping[str, int]
    batch_size: int
    dtype: str
    state: Mapping[str, float]
    arguments: float
    temporaries: float
    program: float
    flops: float
    needed: float
    traffic: float | None
    collectives: Mapping[str, Mapping[str, int]] | None
    exchanges: Sequence[Exchange] | None
    refused: str
    compile_seconds: float
    notes: Sequence[str]

    @property
    def total(self) -> float:
        """Bytes that the step needs."""
        return self.arguments + self.temporaries + self.program

    @property
    def fits(self) -> bool:
        return not self.refused and self.total <= self.topology.chip.memory

    @property
    def times(self) -> dict[str, float]:
        """Seconds that arithmetic, memory and links are busy; empty if there is no program, or nothing is known of the
        chip."""
        chip = self.topology.chip
        if self.exchanges is None or self.traffic is None or not chip.peak:
            return {}
        return {
            'compute': self.flops / chip.peak[self.dtype],
            'memory': self.traffic / chip.bandwidth,
            'interconnect': sum(exchange.seconds for exchange in self.exchanges),
        }

    @property
    def bound(self) -> str:
        """What takes longest."""
        return max(self.times, key=self.times.__getitem__, default='')

    @property
    def step_seconds(self) -> float | None:
        """The longest of the three, as if they overlapped entirely: no step is faster."""
        return max(self.times.values(), default=None)

    @property
    def utilisation(self) -> float | None:
        """Model FLOPs utilisation at that time: no step has more."""
        if self.step_seconds is None:
            return None
        return self.needed / (self.step_seconds * self.topology.chip.peak[self.dtype] * self.topology.size)

    def json(self) -> dict[str, Any]:
        """All of it in plain values: GiB, FLOPs and bytes of one chip."""
        return {
            'topology': self.topology.name,
            'chips': self.topology.size,
            'mesh': dict(self.mesh),
            'batch_size': self.batch_size,
            'dtype': self.dtype,
            'fits': self.fits,
            'limit_gib': self.topology.chip.memory / GIB,
            'total_gib': self.total / GIB,
            'arguments_gib': self.arguments / GIB,
            'temporaries_gib': self.temporaries / GIB,
            'program_gib': self.program / GIB,
            'state_gib': sum(self.state.values()) / GIB,
            'parts_gib': {name: size / GIB for name, size in self.state.items()},
            'flops': self.flops,
            'model_flops': self.needed,
            'memory_bytes': self.traffic,
            'collectives': self.collectives,
            'layers': None if self.exchanges is None else [dataclasses.asdict(one) for one in self.exchanges],
            'seconds': self.times or None,
            'bound': self.bound or None,
            'step_seconds': self.step_seconds,
            'utilisation': self.utilisation,
            'compile_seconds': self.compile_seconds,
            'refused': self.refused or None,
            'notes': list(self.notes),
        }


def plan_step(config: Config, topology: Topology) -> Plan:
    """Compiles the training step of a config for a topology.

    Raises:
      UserError: mesh, batch, model and data do not fit together, or there is no such topology.
    """
    devices = topology.devices()
    setup = set_up(config, devices)
    traced = setup.train_step.trace(setup.state, setup.batch)
    recomputes = config.model.args.get('remat', 'none') not in (False, 'none') or config.model.dtype != 'float32'
    needed = model_flops(config, devices) if recomputes else count(traced.jaxpr.jaxpr)
    began = time.monotonic()
    refused, program, memory = '', None, None
    try:
        compiled = traced.lower().compile()
        program, memory = hlo.read(compiled.as_text()), compiled.memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        refused = ' '.join(str(error).partition('\n')[0].split()).removeprefix('RESOURCE_EXHAUSTED: ')
    seconds = time.monotonic() - began
    state = _state(setup)
    common: dict[str, Any] = {
        'topology': topology,
        'mesh': dict(setup.mesh.shape),
        'batch_size': config.batch_size,
        'dtype': config.model.dtype,
        'state': state,
        'needed': needed,
        'refused': refused,
        'compile_seconds': seconds,
        'notes': setup.fallbacks,
    }
    if program is None or memory is None:
        return Plan(
            **common,
            arguments=sum(state.values()) + bytes_on_a_device(setup.batch),
            temporaries=_asked(refused),
            program=0.0,
            flops=count(traced.jaxpr.jaxpr) / topology.size,
            traffic=None,
            collectives=None,
            exchanges=None,
        )
    return Plan(
        **common,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        program=memory.generated_code_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        flops=program.flops,
        traffic=program.traffic,
        collectives=_kinds(program),
        exchanges=_exchanges(program, topology, list(setup.mesh.devices.flat)),
    )


def _asked(refused: str) -> float:
    """Bytes of temporaries that a compiler was asked for when it refused; nan if it does not say."""
    found = re.search(r'temporaries \(([\d.]+)([KMGT])\)|Used ([\d.]+)([KMGT]) of', refused)
    if found is None:
        return math.nan
    number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    return float(number) * 1024 ** ('KMGT'.index(unit) + 1)


def parts(state: TrainState) -> dict[str, Any]:
    """The trees of a state by what they are."""
    trees = {
        'parameters': state.params,
        'optimizer': state.opt_state,
        'average (EMA)': state.ema,
        **{name.replace('_', ' '): tree for name, tree in state.collections.items()},
    }
    return {name: tree for name, tree in trees.items() if jax.tree.leaves(tree)}


def _state(setup: Setup) -> dict[str, float]:
    return {name: bytes_on_a_device(tree) for name, tree in parts(setup.state).items()} | {
        name: bytes_on_a_device(tree) for name, tree in abstract(setup.given).items()
    }


def bytes_on_a_device(tree: Any) -> float:
    """Bytes of a tree of shapes and shardings that lie on one device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _exchanges(program: hlo.Program, topology: Topology, devices: Sequence[Any]) -> list[Exchange]:
    found: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0] * 4)
    for one in program.collectives:
        seconds = one.count * one.sent / topology.bandwidth(devices, one.group) if topology.chip.link else 0.0
        for layer, size in one.layers.items():
            part = seconds * size / one.bytes if one.bytes else 0.0
            values = (one.count, one.count * size, part, part * one.overlaps)
            found[one.kind, layer] = [old + new for old, new in zip(found[one.kind, layer], values, strict=True)]
    made = [Exchange(*key, *sums) for key, sums in found.items()]
    return sorted(made, key=lambda exchange: -exchange.bytes)


def _kinds(program: hlo.Program) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for one in program.collectives:
        sums = found.setdefault(one.kind, {'count': 0, 'bytes': 0})
        sums['count'] += round(one.count)
        sums['bytes'] += round(one.count * one.bytes)
    return found
