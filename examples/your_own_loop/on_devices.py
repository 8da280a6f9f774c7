"""Five training steps over all devices, with `pmap`, `jit` and a mesh of yours, `shard_map`: the same losses.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python examples/your_own_loop/on_devices.py
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from sklearn.datasets import load_digits

from vit_flax.models.vit import ViT

MODEL = ViT(image_size=8, patch_size=2, channels=1, num_classes=10, dim=32, depth=2, heads=4, dim_head=8, mlp_dim=64)
OPTIMIZER, STEPS, BATCH = optax.adamw(1e-3), 5, 64
DIGITS = load_digits()
IMAGES, LABELS = np.float32(DIGITS.images[:, :, :, None] / 16), DIGITS.target


def step(params, state, images, labels, mean=lambda tree: tree):
    def loss_of(params):
        logits = MODEL.apply({'params': params}, images, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    loss, gradients = mean(jax.value_and_grad(loss_of)(params))
    updates, state = OPTIMIZER.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, loss


def losses(step, params, state, place):
    for start in range(0, STEPS * BATCH, BATCH):
        rows = slice(start, start + BATCH)
        params, state, loss = step(params, state, place(IMAGES[rows]), place(LABELS[rows]))
        yield float(np.ravel(loss)[0])


def with_pmap(params):
    """A copy of everything on each device; gradients are averaged by hand."""
    devices = jax.local_device_count()
    mapped = jax.pmap(partial(step, mean=lambda tree: jax.lax.pmean(tree, 'devices')), axis_name='devices')
    copies = jax.tree.map(lambda x: jnp.stack([x] * devices), (params, OPTIMIZER.init(params)))
    return losses(mapped, *copies, lambda x: x.reshape(devices, -1, *x.shape[1:]))


def with_jit_and_a_mesh(params):
    """Arrays have a sharding, and `jit` follows: the batch over one axis, kernels over the other."""
    devices = np.array(jax.devices())
    mesh = Mesh(devices.reshape(-1, 2 if len(devices) % 2 == 0 else 1), ('batch', 'columns'))

    def spread(x):
        divides = x.ndim == 2 and x.shape[1] % mesh.shape['columns'] == 0
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(None, 'columns') if divides else PartitionSpec()))

    params, rows = jax.tree.map(spread, params), NamedSharding(mesh, PartitionSpec('batch'))
    return losses(jax.jit(step), params, OPTIMIZER.init(params), lambda x: jax.device_put(x, rows))


def with_shard_map(params):
    """Each device computes its rows. With `check_vma` the gradient of replicated parameters is a sum over the devices
    already, which `pmean` would leave too large by their number."""
    mesh, everywhere, rows = Mesh(np.array(jax.devices()), ('batch',)), PartitionSpec(), PartitionSpec('batch')
    local = partial(step, mean=lambda tree: jax.lax.pmean(tree, 'batch'))
    specs = dict(in_specs=(everywhere, everywhere, rows, rows), out_specs=everywhere)
    mapped = jax.jit(jax.shard_map(local, mesh=mesh, check_vma=False, **specs))
    return losses(mapped, params, OPTIMIZER.init(params), lambda x: x)


def main() -> None:
    params = MODEL.init(jax.random.key(0), IMAGES[:1])['params']
    for way in (with_pmap, with_jit_and_a_mesh, with_shard_map):
        print(f'{way.__name__:20}', *(f'{loss:.5f}' for loss in way(params)))


if __name__ == '__main__':
    main()
