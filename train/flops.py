"""FLOPs of a training step, and what devices can do in a second."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from train.config import Config
from train.plan.chips import chip_of
from train.setup import set_up
from vit_flax.flops import count


def model_flops(config: Config, devices: Sequence[Any] | None = None) -> int:
    """Of a training step without what `remat` computes a second time: what the model needs, not what it is made to do.

    It is traced in float32, since in 16 bits attention forms its map twice. Inputs so long that it does so in any dtype
    count one product of each layer too many.

    Args:
      config: of the run.
      devices: as for `set_up`.
    """
    args = {name: value for name, value in config.model.args.items() if name != 'remat'}
    model = dataclasses.replace(config.model, args=args, dtype='float32')
    setup = set_up(dataclasses.replace(config, model=model), devices)
    return count(setup.train_step.trace(setup.state, setup.batch).jaxpr.jaxpr)


def peak_flops(mesh: jax.sharding.Mesh, dtype: str) -> float | None:
    """FLOP/s of all devices of a mesh together; None if it is not known of this kind of device."""
    chip = chip_of(mesh.devices.flat[0].device_kind)
    return None if chip is None else chip.peak[dtype] * mesh.size
