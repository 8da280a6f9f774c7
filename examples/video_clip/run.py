"""Decodes a short clip and runs four models of videos on it, with weights as they are drawn: what goes in and out."""

import sys
import tempfile
import time
from pathlib import Path

import av
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from sklearn.datasets import load_sample_images

from vit_flax.models.na_vit_nested_tensor_3d import NaViT
from vit_flax.models.simple_vit import SimpleViT
from vit_flax.models.vit_3d import ViT
from vit_flax.models.vivit import ViViT
from vit_flax.wrappers.accept_video_wrapper import AcceptVideoWrapper

FRAMES, SIZE, PATCH = 16, 128, 16
TRUNK = dict(image_size=SIZE, num_classes=10, dim=192, heads=3, mlp_dim=384)
BOXES = dict(frames=FRAMES, image_patch_size=PATCH, frame_patch_size=2)


def pan(path: Path) -> None:
    """Writes two seconds of a camera that moves over a photograph."""
    photograph = load_sample_images().images[0]
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, 'yuv420p'
        for step in range(50):
            view = np.ascontiguousarray(photograph[2 * step : 2 * step + 240, 6 * step : 6 * step + 320])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view)))
        container.mux(stream.encode())


def read(path: Path) -> np.ndarray:
    """Frames spread over the clip, their shorter side `SIZE` pixels, the longer whole patches: `[t h w c]`, -1 to 1."""
    with av.open(str(path)) as container:
        every = list(container.decode(video=0))
    frames = [every[int((number + 0.5) * len(every) / FRAMES)] for number in range(FRAMES)]
    print(f'{path.name}: {FRAMES} of {len(every)} frames, {frames[0].width} x {frames[0].height} pixels')
    scale = SIZE / min(frames[0].width, frames[0].height)
    width, height = (round(scale * side / PATCH) * PATCH for side in (frames[0].width, frames[0].height))
    images = np.stack([frame.to_ndarray(format='rgb24', width=width, height=height) for frame in frames])
    return np.float32(images) / 127.5 - 1


def run(name: str, model: nn.Module, how: str, *args: np.ndarray, **kwargs: np.ndarray) -> None:
    """Runs a model once it is compiled."""
    variables = jax.jit(model.init)(jax.random.key(0), *args, **kwargs)
    apply = jax.jit(model.apply).lower(variables, *args, **kwargs).compile()
    started = time.perf_counter()
    logits = jax.block_until_ready(apply(variables, *args, **kwargs))
    seconds = time.perf_counter() - started
    assert jnp.isfinite(logits).all()
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    taken = args[0] if args else kwargs['patches']
    print(f'\n{name}: {count / 1e6:.1f} M parameters, {taken.shape} to {logits.shape} in {seconds:.3f} s\n  {how}')


def main(path: Path) -> None:
    try:
        whole = read(path)
    except (OSError, av.FFmpegError) as error:
        raise SystemExit(f'{path} cannot be read as a video: {error}') from error
    top, left = ((side - SIZE) // 2 for side in whole.shape[1:3])
    square = whole[:, top : top + SIZE, left : left + SIZE]
    clip = square[None]
    how = '8 steps of time x 64 places: attention within each step, then across the steps'
    run('ViViT', ViViT(**TRUNK, **BOXES, spatial_depth=2, temporal_depth=1), how, clip)
    run('3D ViT', ViT(**TRUNK, **BOXES, depth=3), '512 boxes of 2 frames, 16 x 16 pixels: each reads all others', clip)
    image_net = SimpleViT(**TRUNK, patch_size=PATCH, depth=3)
    run('AcceptVideoWrapper of SimpleViT', AcceptVideoWrapper(image_net), '16 images of 64 patches, one by one', clip)

    size = max(whole.shape[1:3])
    packs = NaViT(**{**TRUNK, 'image_size': size}, max_frames=FRAMES, patch_size=PATCH, frame_patch_size=2, depth=3)
    videos = [whole, square[::2]]
    how = ' and '.join(' x '.join(map(str, video.shape[:3])) for video in videos) + ' in one row, each reads itself'
    run('NaViT', packs, how, **packs.pack(videos))


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder, 'pan.mp4')
        if len(sys.argv) == 1:
            pan(clip)
        main(clip)
