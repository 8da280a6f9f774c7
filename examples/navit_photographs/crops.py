"""Trains a small NaViT to tell scikit-learn's two photographs apart by crops of any size, several crops in a row."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_sample_images

from vit_flax.models.na_vit import NaViT
from vit_flax.packing import from_slots, to_slots

PATCH, STEPS = 16, 30
MODEL = NaViT(
    image_size=160,
    patch_size=PATCH,
    num_classes=2,
    dim=48,
    depth=1,
    heads=3,
    dim_head=16,
    mlp_dim=96,
    # large crops can spare more of their patches
    token_dropout_prob=lambda height, width: 0.5 if height * width > 80**2 else 0.2,
)
# one shape, so that JAX compiles once
ROWS = dict(group_images=True, group_max_seq_len=128, max_images=16, lengths=128, rows=8, tight=True)


def draw_crops(rng: np.random.Generator, photographs: list[np.ndarray], count: int) -> tuple[list, np.ndarray]:
    """Crops of 2 to 10 patches a side, and the number of the photograph that each is of."""
    labels = rng.integers(len(photographs), size=count)
    crops = []
    for label in labels:
        sides = PATCH * rng.integers(2, 11, size=2)
        top, left = rng.integers(np.array(photographs[label].shape[:2]) - sides + 1)
        crops.append(photographs[label][top : top + sides[0], left : left + sides[1]])
    return crops, labels


def main() -> None:
    photographs = [np.float32(image) / 255 - 0.5 for image in load_sample_images().images]
    # the right third is never trained on
    edge = photographs[0].shape[1] * 2 // 3
    train, held_out = ([image[:, part] for image in photographs] for part in (slice(edge), slice(edge, None)))
    rng = np.random.default_rng(0)

    variables = jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, PATCH, PATCH, 3)))
    evaluate, optimizer = jax.jit(MODEL.apply), optax.adamw(2e-3)
    state = optimizer.init(variables)

    @jax.jit
    def step(variables, state, packed, labels):
        def loss(variables):
            logits = MODEL.apply(variables, **packed, train=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.mean(losses, where=packed['slots'] >= 0)

        value, gradients = jax.value_and_grad(loss)(variables)
        updates, state = optimizer.update(gradients, state, variables)
        return optax.apply_updates(variables, updates), state, value

    for number in range(1, STEPS + 1):
        crops, labels = draw_crops(rng, train, 36)
        packed = MODEL.pack(crops, train=True, rng=rng, **ROWS)
        variables, state, loss = step(variables, state, packed, to_slots(labels, packed['slots']))
        if number in (1, STEPS):
            used = np.mean(packed['image_ids'] >= 0)
            print(f'step {number}: loss {loss:.2f}; {len(crops)} crops fill {used:.0%} of 8 rows')

    crops, labels = draw_crops(rng, held_out, 60)
    packed = MODEL.pack(crops, group_images=True, group_max_seq_len=128, tight=True)
    logits = from_slots(evaluate(variables, **packed), packed['slots'])
    print(f'{(logits.argmax(1) == labels).sum()} of {len(crops)} held-out crops right')
    alone = evaluate(variables, crops[0][None])
    print(f'the first one alone gives other logits by {jnp.abs(logits[:1] - alone).max():.0e}')


if __name__ == '__main__':
    main()
