"""Five training steps in loops made of Flax's own parts, `TrainState` and NNX: the same losses.

python examples/your_own_loop/in_flax.py
"""

import jax
import numpy as np
import optax
from flax import nnx
from flax.training.train_state import TrainState
from sklearn.datasets import load_digits

from vit_flax.models.vit import ViT

MODEL = ViT(image_size=8, patch_size=2, channels=1, num_classes=10, dim=32, depth=2, heads=4, dim_head=8, mlp_dim=64)
OPTIMIZER, STEPS, BATCH = optax.adamw(1e-3), 5, 64
DIGITS = load_digits()
IMAGES, LABELS = np.float32(DIGITS.images[:, :, :, None] / 16), DIGITS.target


def batches():
    for start in range(0, STEPS * BATCH, BATCH):
        yield IMAGES[start : start + BATCH], LABELS[start : start + BATCH]


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def with_train_state(params):
    state = TrainState.create(apply_fn=MODEL.apply, params=params, tx=OPTIMIZER)

    @jax.jit
    def step(state, images, labels):
        def loss_of(params):
            return cross_entropy(state.apply_fn({'params': params}, images, train=True), labels)

        loss, gradients = jax.value_and_grad(loss_of)(state.params)
        return state.apply_gradients(grads=gradients), loss

    for images, labels in batches():
        state, loss = step(state, images, labels)
        yield float(loss)


def with_nnx(params):
    """An object that holds its parameters: `model.mlp_head['kernel']`."""
    model = nnx.bridge.ToNNX(MODEL, rngs=nnx.Rngs(0)).lazy_init(IMAGES[:1])
    state = nnx.state(model, nnx.Param)
    nnx.replace_by_pure_dict(state, params)
    nnx.update(model, state)
    optimizer = nnx.Optimizer(model, OPTIMIZER, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, images, labels):
        loss, gradients = nnx.value_and_grad(lambda model: cross_entropy(model(images, train=True), labels))(model)
        optimizer.update(model, gradients)
        return loss

    for images, labels in batches():
        yield float(step(model, optimizer, images, labels))


def main() -> None:
    params = MODEL.init(jax.random.key(0), IMAGES[:1])['params']
    for way in (with_train_state, with_nnx):
        print(f'{way.__name__:20}', *(f'{loss:.5f}' for loss in way(params)))


if __name__ == '__main__':
    main()
