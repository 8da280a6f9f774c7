"""Trains a small VAAT to steer by an image, a sound and a task: to a digit or away from it, fast or slowly."""

import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

from vit_flax.models.vaat import AST, VAAT, ViT

CANVAS, SAMPLES, AHEAD, BATCH = 24, 320, 4, 64
SMALL = dict(dim=48, depth=2, heads=3, dim_head=16, mlp_dim=96)
MODEL = VAAT(
    ViT(image_size=CANVAS, patch_size=4, num_classes=1, channels=1, **SMALL),
    AST(patch_size=(8, 7), spec_n_fft=32, **SMALL),
    dim_action=2,
    num_tasks=2,
    action_chunk_len=AHEAD,
    vit_layer_indices=(1, 2),
    # without it the tokens start as zeros
    film_around_one=True,
    **SMALL,
)


def draw_scenes(rng: np.random.Generator, digits: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Digits somewhere in an empty image, a high tone or a low one in noise, a task, and the way that is right."""
    corner = rng.integers(CANVAS - 8 + 1, size=(count, 2))
    pictures = np.zeros((count, CANVAS, CANVAS, 1), np.float32)
    drawn = digits[rng.integers(len(digits), size=count)]
    for picture, (top, left), digit in zip(pictures, corner, drawn, strict=True):
        picture[top : top + 8, left : left + 8, 0] = digit / 8 - 1
    high, tasks = rng.integers(2, size=(2, count))
    phase = rng.uniform(0, 2 * np.pi, size=(count, 1)) + np.where(high, 1.2, 0.4)[:, None] * np.arange(SAMPLES)
    sound = np.sin(phase) + 0.5 * rng.normal(size=phase.shape)
    to_digit = (corner + 4) / (CANVAS / 2) - 1
    speed = np.where(tasks, -1, 1) * np.where(high, 1.0, 0.4)
    actions = (speed[:, None] * to_digit)[:, None] * np.arange(1, AHEAD + 1)[:, None] / AHEAD
    return dict(
        video_or_image=pictures,
        audio_or_spec=sound.astype(np.float32),
        tasks=tasks,
        actions=actions.astype(np.float32),
    )


def main(steps: int = 400) -> None:
    digits = load_digits().images
    rng = np.random.default_rng(0)
    variables = jax.jit(MODEL.init)(jax.random.key(0), **draw_scenes(rng, digits[:1500], 1))
    params, constants = variables['params'], {'constants': variables['constants']}
    optimizer = optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 3e-3, steps // 10, steps))

    @jax.jit
    def step(params, state, scenes):
        # with `actions` among the scenes the model returns its loss
        loss, gradients = jax.value_and_grad(lambda p: MODEL.apply({'params': p, **constants}, **scenes))(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    state = optimizer.init(params)
    for number in range(1, steps + 1):
        params, state, loss = step(params, state, draw_scenes(rng, digits[:1500], BATCH))
        if number in (1, steps // 4, steps):
            print(f'step {number}: off by {loss:.3f}')

    scenes = draw_scenes(rng, digits[1500:], 256)
    right = scenes.pop('actions')
    act = jax.jit(lambda scenes: MODEL.apply({'params': params, **constants}, **scenes))
    print(f'held-out digits: off by {abs(act(scenes) - right).mean():.3f}, standing still by {abs(right).mean():.3f}')
    turned = act({**scenes, 'tasks': 1 - scenes['tasks']})
    print(f'with the other task: off by {abs(turned + right).mean():.3f} from the opposite way')


if __name__ == '__main__':
    main()
