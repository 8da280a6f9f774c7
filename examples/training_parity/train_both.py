"""Twenty AdamW steps of a ViT in PyTorch and in JAX, from the same weights on the same batches: the same losses.

Copy it for a model of your own: replace the two constructors, and `from_torch` by your own way of moving weights.
In float64 what remains is rounding; a difference that grows from the first steps on is a mistake.

    python examples/training_parity/train_both.py
"""

import jax
import numpy as np
import optax
import torch
from sklearn.datasets import load_digits

import vit_flax
from vit_flax.models.vit import ViT
from vit_torch_ref.models.vit import ViT as TorchViT

STEPS, BATCH, RATE, DECAY = 20, 32, 1e-3, 0.05
SIZES = dict(image_size=8, patch_size=2, channels=1, num_classes=10, dim=48, depth=4, heads=3, dim_head=16, mlp_dim=96)


def batches():
    """Real handwritten digits, `[b h w c]` from 0 to 1, and their labels."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    for step in range(STEPS):
        rows = order[step * BATCH : (step + 1) * BATCH]
        yield digits.images[rows, :, :, None] / 16, digits.target[rows]


def losses_in_torch(model: torch.nn.Module) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=DECAY)
    losses = []
    for images, labels in batches():
        logits = model(torch.from_numpy(images).permute(0, 3, 1, 2))  # torch takes channels before rows
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def losses_in_flax(model: ViT, variables: dict) -> list[float]:
    optimizer = optax.adamw(RATE, b1=0.9, b2=0.999, eps=1e-8, weight_decay=DECAY)

    @jax.jit
    def step(variables, state, images, labels):
        def loss_of(variables):
            logits = model.apply(variables, images, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, gradients = jax.value_and_grad(loss_of)(variables)
        updates, state = optimizer.update(gradients, state, variables)
        return optax.apply_updates(variables, updates), state, loss

    state, losses = optimizer.init(variables), []
    for images, labels in batches():
        variables, state, loss = step(variables, state, images, labels)
        losses.append(float(loss))
    return losses


def main() -> None:
    torch.manual_seed(0)
    reference, model = TorchViT(**SIZES).double(), ViT(**SIZES)
    with jax.enable_x64(True):
        variables = vit_flax.from_torch(model, reference.state_dict(), source='vit_pytorch')
        ours = losses_in_flax(model, variables)
    theirs = losses_in_torch(reference)
    for step, (mine, other) in enumerate(zip(ours, theirs, strict=True), start=1):
        print(f'step {step:2d}  jax {mine:.12f}  torch {other:.12f}  difference {abs(mine - other):.1e}')
    worst = max(abs(mine - other) for mine, other in zip(ours, theirs, strict=True))
    print(f'largest difference {worst:.1e}: {"equal" if worst <= 1e-8 else "NOT equal"} to 1e-8')


if __name__ == '__main__':
    main()
