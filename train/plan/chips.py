"""What one chip can do: memory, arithmetic, and how fast it exchanges bytes with others.

Sources: cloud.google.com/tpu/docs (v4, v5p, v5e, v6e: memory, bandwidth and peak), jax-ml.github.io/scaling-book/tpus
(bandwidth of one link of the interconnect), NVIDIA's data sheets of the A100 80GB SXM, H100 SXM and H200 SXM (dense
products, NVLink), DGX A100 and DGX H100 (one network adapter of 200 and 400 Gbit/s for each GPU). The memory of a TPU
that a program may use is what the compiler of libtpu 0.0.42 allows; of a GPU it is what XLA preallocates by default,
three quarters of the whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
      title: its name.
      kinds: how `device.device_kind` begins.
      memory: bytes that a program may use.
      peak: FLOP/s of matrix products, by the dtype of the computation.
      bandwidth: of its memory, in bytes/s.
      link: of one link to a neighbour in one direction, in bytes/s; of GPUs, of all NVLinks together.
      dimensions: of the torus that TPUs form; 0 for GPUs, which a switch connects.
      network: to the chips beyond that, in bytes/s for each chip.
      slices: the shapes that can be had, where they are few; otherwise any of the torus.
      largest: chips of the largest slice.
    """

    title: str
    kinds: tuple[str, ...]
    memory: int
    peak: Mapping[str, float]
    bandwidth: float
    link: float
    dimensions: int = 0
    network: float = 0.0
    slices: tuple[tuple[int, ...], ...] = ()
    largest: int = 0


def _gib(size: float) -> int:
    return int(size * GIB)


def _tpu(flops: float) -> Mapping[str, float]:
    """XLA multiplies float32 in one pass of bfloat16 on TPUs unless a program asks for more."""
    return {'bfloat16': flops, 'float32': flops}


FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))

CHIPS: Mapping[str, Chip] = {
    'v4': Chip('TPU v4', ('TPU v4',), _gib(30.75), _tpu(275e12), 1.228e12, 4.5e10, 3, largest=4096),
    'v5e': Chip('TPU v5e', ('TPU v5 lite', 'TPU v5e'), _gib(15.75), _tpu(197e12), 8.19e11, 4.5e10, 2, slices=FLAT,
                largest=256),
    'v5p': Chip('TPU v5p', ('TPU v5p', 'TPU v5'), _gib(95.74), _tpu(459e12), 2.765e12, 9e10, 3, largest=6144),
    'v6e': Chip('TPU v6e', ('TPU v6 lite', 'TPU v6e'), _gib(31.25), _tpu(918e12), 1.64e12, 9e10, 2, slices=FLAT,
                largest=256),
    'a100': Chip('A100 80GB', ('NVIDIA A100',), int(0.75 * 80e9), {'bfloat16': 312e12, 'float32': 156e12}, 2.039e12,
                 3e11, network=25e9),
    'h100': Chip('H100 80GB', ('NVIDIA H100',), int(0.75 * 80e9), {'bfloat16': 989e12, 'float32': 494e12}, 3.35e12,
                 4.5e11, network=50e9),
    'h200': Chip('H200 141GB', ('NVIDIA H200',), int(0.75 * 141e9), {'bfloat16': 989e12, 'float32': 494e12}, 4.8e12,
                 4.5e11, network=50e9),
}  # fmt: skip


def chip_of(kind: str) -> Chip | None:
    """The chip that a device is, by its `device_kind`; None if its peak is not known here."""
    found = [(len(start), chip) for chip in CHIPS.values() for start in chip.kinds if kind.startswith(start)]
    return max(found, key=lambda pair: pair[0])[1] if found else None
