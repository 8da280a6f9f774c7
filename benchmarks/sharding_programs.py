"""The compiled training step of a ViT over a slice of TPUs that need not be here: memory, FLOPs and collectives.

    python benchmarks/sharding_programs.py L v5e:16x16 --fsdp 256 --batch 4096

Needs `libtpu` (`pip install libtpu`), with `JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1`. What a loop holds is counted once.
`docs/sharding.md` has the results. `--unconstrained` leaves the activations to the compiler.
"""

import argparse
import math
import re
import time
from collections import defaultdict
from contextlib import nullcontext
from unittest import mock

import jax
import numpy as np
from jax.experimental import topologies

from train.config import Config, Mesh, Model, Optim
from train.data.augment import Augment
from train.objectives.classification import Classification
from train.setup import set_up
from train.sharding import batch_sharding
from train.sources.synthetic import Synthetic

# patch, width, depth, heads, hidden width
SIZES = {
    'B': (16, 768, 12, 12, 3072),
    'L': (16, 1024, 24, 16, 4096),
    'H': (14, 1280, 32, 16, 5120),
    'g': (14, 1408, 40, 16, 6144),
    '22B': (14, 6144, 48, 48, 24576),
}
BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 'f32': 4, 's32': 4, 'u32': 4}
KINDS = 'all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute'
PIXELS = 224


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('size', choices=SIZES)
    parser.add_argument('topology', help='such as v5e:16x16 or v4:4x4x4')
    parser.add_argument('--batch', type=int, default=4096)
    parser.add_argument('--fsdp', type=int, default=1)
    parser.add_argument('--tensor', type=int, default=1)
    parser.add_argument('--depth', type=int, help='other than that of the size')
    parser.add_argument('--remat', default='full')
    parser.add_argument('--moment-dtype', default='float32')
    parser.add_argument('--gradient-reduction', default='computation')
    parser.add_argument('--unconstrained', action='store_true')
    return parser.parse_args()


def main() -> None:
    given = options()
    patch, dim, depth, heads, mlp_dim = SIZES[given.size]
    depth = given.depth or depth
    args = dict(patch_size=patch, dim=dim, depth=depth, heads=heads, dim_head=dim // heads, mlp_dim=mlp_dim)
    config = Config(
        steps=10,
        batch_size=given.batch,
        data=Synthetic(image_size=PIXELS, num_classes=1000),
        augment=Augment(),
        model=Model('vit', {**args, 'scan': True, 'remat': given.remat}, dtype='bfloat16'),
        objective=Classification(),
        optim=Optim(moment_dtype=given.moment_dtype, gradient_reduction=given.gradient_reduction),
        mesh=Mesh(fsdp=given.fsdp, tensor=given.tensor),
    )
    devices = topologies.get_topology_desc(topology_name=given.topology, platform='tpu').devices
    free = mock.patch('train.sharding.split_by_batch', return_value=nullcontext())
    with free if given.unconstrained else nullcontext():
        setup = set_up(config, devices)
        images, labels = (batch_sharding(setup.mesh, ndim) for ndim in (4, 1))
        rows = {
            'image': jax.ShapeDtypeStruct((given.batch, PIXELS, PIXELS, 3), np.uint8, sharding=images),
            'label': jax.ShapeDtypeStruct((given.batch,), np.int32, sharding=labels),
        }
        began = time.monotonic()
        compiled = setup.train_step.lower(setup.state, rows).compile()
    memory, gib = compiled.memory_analysis(), 2**30
    copies = setup.mesh.shape['data'] * setup.mesh.shape['fsdp']
    tokens = given.batch // copies * ((PIXELS // patch) ** 2 + 1)
    print(f'{setup.parameters / 1e9:.3f} billion parameters, compiled in {time.monotonic() - began:.0f} s; of a chip:')
    print(f'  state and batch    {memory.argument_size_in_bytes / gib:8.3f} GiB')
    print(f'  temporaries        {memory.temp_size_in_bytes / gib:8.3f} GiB')
    print(f'  most in use        {memory.peak_memory_in_bytes / gib:8.3f} GiB at a time, state and batch among it')
    print(f'  inputs of blocks   {depth * tokens * dim * 2 / gib:8.3f} GiB, of {depth} blocks in bfloat16')
    print(f'  FLOPs              {compiled.cost_analysis()["flops"]:8.3g}')
    for line in setup.fallbacks:
        print(f'  {line}')
    for kind, (count, size, largest) in sorted(collectives(compiled.as_text()).items()):
        print(f'  {kind:18} {count:4} arrays of {size / 2**20:8.2f} MiB, the largest {largest}')


def collectives(program: str) -> dict[str, tuple[int, int, str]]:
    """Kind -> how many different arrays, their bytes, and the shape of the largest.

    An asynchronous collective has its result in several computations of the program; each is counted once.
    """
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for line in program.splitlines():
        match = re.search(rf'= (.*?) ({KINDS})(?:-start)?\((.*)$', line)
        if match:
            name = re.search(r'channel_id=(\d+)', match[3])
            shapes = [shape for shape in re.findall(r'\w+\[[\d,]*\]', match[1]) if not shape.startswith('u32')]
            operation = re.search(r'op_name="([^"]*)"', match[3])
            place = operation[1] if operation else name[1] if name else ''
            found[match[2]] |= {(shape, place) for shape in shapes}
    return {
        kind: (len(arrays), sum(size(shape) for shape, _ in arrays), max(arrays, key=lambda array: size(array[0]))[0])
        for kind, arrays in found.items()
    }


def size(shape: str) -> int:
    dtype, _, axes = shape[:-1].partition('[')
    return BYTES[dtype] * math.prod(map(int, filter(None, axes.split(','))))


if __name__ == '__main__':
    main()
