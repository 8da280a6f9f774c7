"""Devices by name that need not be here: `v5e:16x16`, `v5p:4x4x8`, `gpu:8xh100`, `cpu:8`."""

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental.topologies import get_topology_desc

from train.errors import UserError, in_a_line, nearest
from train.plan.chips import CHIPS, Chip

FORMS = 'name one such as v5e:16x16, v6e:4x8, v4:4x4x4, v5p:4x4x8, gpu:8xh100 or cpu:8'

# GPUs that NVLink connects; beyond them is the network.
BOX = 8
# More devices than that are too slow to simulate.
MOST = 4096
# Slices of a torus of three dimensions that are a part of one cube of 64 chips, of sorted sizes.
SMALL = ((1, 2, 2), (2, 2, 2), (2, 2, 4), (2, 4, 4))


@dataclass(frozen=True)
class Topology:
    """Chips of one kind and how they are connected.

    Attributes:
      name: as it was asked for.
      kind: a key of `CHIPS`, or 'cpu'.
      chip: what each one can do.
      shape: of the torus; `(n,)` for GPUs and CPUs.
    """

    name: str
    kind: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def simulated(self) -> bool:
        """Whether devices of this machine's CPU stand in, and XLA:CPU compiles."""
        return not self.chip.dimensions

    def bandwidth(self, devices: Sequence[Any], group: Sequence[int]) -> float:
        """Bytes/s that each of some devices can exchange with the others, all at once.

        In a torus each axis along which they lie has two links, or one in each direction where it does not close to a
        ring: of v4 and v5p slices the axes of a multiple of four chips close, of v5e and v6e slices those of sixteen.
        GPUs of a box are connected by NVLink, boxes by the network.
        """
        if not self.chip.dimensions:
            boxes = {number // BOX for number in group}
            if len(boxes) == 1:
                return self.chip.link
            return min(self.chip.link, self.chip.network * len(group) / len(boxes))
        closes = 16 if self.chip.dimensions == 2 else 4
        places = [devices[number].coords for number in group]
        axes = [size for axis, size in enumerate(self.shape) if len({place[axis] for place in places}) > 1]
        return sum(self.chip.link * (2 if size % closes == 0 else 1) for size in axes) or self.chip.link

    def prepare(self) -> None:
        """Configures JAX, before it has started a backend.

        Raises:
          UserError: the compiler for TPUs is not installed.
        """
        if not self.simulated:
            if importlib.util.find_spec('libtpu') is None:
                raise UserError(f"topology={self.name!r} needs the compiler for TPUs: pip install 'vit-linen[plan]'")
            # Otherwise it asks Google's servers which TPU this machine is, and says on stderr that nobody answers.
            for name, value in QUIET.items():
                os.environ.setdefault(name, value)
        jax.config.update('jax_platforms', 'cpu')
        if self.simulated:
            with suppress(RuntimeError):  # JAX has begun: `devices` sees with how many
                jax.config.update('jax_num_cpu_devices', self.size)

    def devices(self) -> Sequence[Any]:
        """The devices to compile for.

        Raises:
          UserError: see `prepare`; JAX has begun with other devices; or the compiler knows no such slice.
        """
        self.prepare()
        if self.simulated:
            here = jax.devices('cpu')
            if len(here) < self.size:
                raise UserError(f'topology={self.name!r}: JAX has begun with {len(here)} CPU devices in this process')
            return here[: self.size]
        options: dict[str, Any] = {}
        if self.kind == 'v4':
            options['chip_config_name'] = 'megacore'  # the two cores of a chip are one device
        if self.size == 1:
            options['chips_per_host_bounds'] = (1, 1, 1)
        try:
            return get_topology_desc(f'{self.kind}:{_times(self.shape)}', 'tpu', **options).devices
        except Exception as error:  # a RuntimeError of the compiler's own
            raise UserError(f'topology={self.name!r}: the compiler refuses it: {in_a_line(error)}') from error


QUIET = {
    'TPU_SKIP_MDS_QUERY': '1',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_MIN_LOG_LEVEL': '3',
    'TPU_STDERR_LOG_LEVEL': '3',
}


def parse(name: str) -> Topology:
    """A topology by its name.

    Raises:
      UserError: it is of no such form, of an unknown chip, or of a shape that no slice has.
    """
    found = re.fullmatch(r'(\w+):(?:(\d+)x)?(\w+)', name.strip().lower())
    if found is None:
        raise UserError(f'topology={name!r} is none: {FORMS}')
    family, count, rest = found.groups()
    if family == 'gpu':
        gpus = [key for key, chip in CHIPS.items() if not chip.dimensions]
        if rest not in gpus:
            raise UserError(f'topology={name!r}: {rest!r} is no GPU known here: {nearest(rest, gpus)}')
        number = _count(name, count or '1', MOST)
        if number > BOX and number % BOX:
            raise UserError(f'topology={name!r}: beyond one box of {BOX} GPUs take a multiple of {BOX}')
        return Topology(name, rest, CHIPS[rest], (number,))
    if family == 'cpu':
        number = _count(name, rest, MOST) if count is None else 0
        if not number:
            raise UserError(f'topology={name!r} is none: {FORMS}')
        memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
        return Topology(name, 'cpu', Chip('CPU of this machine', (), memory // number, {}, 0.0, 0.0), (number,))
    chip = CHIPS.get(family)
    if chip is None or not chip.dimensions:
        tpus = [key for key, chip in CHIPS.items() if chip.dimensions]
        raise UserError(
            f'topology={name!r}: {family!r} is no chip known here: {nearest(family, [*tpus, "gpu", "cpu"])}'
        )
    return Topology(name, family, chip, _slice(name, family, chip))


def _slice(name: str, family: str, chip: Chip) -> tuple[int, ...]:
    """The shape of a TPU slice, or a `UserError` with those there are."""
    text = name.strip().lower().partition(':')[2]
    if not re.fullmatch(r'\d+(x\d+)*', text) or text.count('x') != chip.dimensions - 1:
        example = '4x4' if chip.dimensions == 2 else '4x4x4'
        raise UserError(
            f'topology={name!r}: the shape of a {family} slice has {chip.dimensions} sizes, such as {example}'
        )
    shape = tuple(map(int, text.split('x')))
    if chip.slices:
        if tuple(sorted(shape)) not in chip.slices:
            there = ', '.join(map(_times, chip.slices))
            raise UserError(f'topology={name!r}: no {family} slice has this shape, there are {there}')
        return shape
    small = tuple(sorted(shape)) in SMALL
    if not small and (any(size % 4 or not size for size in shape) or math.prod(shape) > chip.largest):
        there = ', '.join(map(_times, SMALL))
        raise UserError(
            f'topology={name!r}: no {family} slice has this shape, there are {there} and three multiples of 4, up to '
            f'{chip.largest} chips'
        )
    return shape


def _count(name: str, text: str, most: int) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise UserError(f'topology={name!r}: the number of devices must lie between 1 and {most}')
    return int(text)


def _times(shape: Sequence[int]) -> str:
    return 'x'.join(map(str, shape))
