"""Spectrograms as torchaudio's `Spectrogram` makes them: how strong each frequency is, moment by moment."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from vit_flax.blocks.checks import check_choice

# torch's names of what stands beyond the ends of a signal, and numpy's
PAD_MODES = {'reflect': 'reflect', 'constant': 'constant', 'replicate': 'edge', 'circular': 'wrap'}


def hann_window(length: int) -> np.ndarray:
    """Raised cosine of one period, as torch's default `hann_window`, `[length]` in float64."""
    return np.sin(np.pi * np.arange(length) / length) ** 2 if length > 1 else np.ones(length)


def spectrogram_shape(
    samples: int, *, n_fft: int, hop_length: int, pad: int = 0, center: bool = True
) -> tuple[int, int]:
    """Frequencies and frames of the spectrogram of a number of samples."""
    padded = samples + 2 * pad + (2 * (n_fft // 2) if center else 0)
    return n_fft // 2 + 1, 1 + (padded - n_fft) // hop_length


def spectrogram(
    audio: Array,
    window: Array | np.ndarray,
    *,
    n_fft: int,
    hop_length: int,
    power: float = 2.0,
    pad: int = 0,
    center: bool = True,
    pad_mode: str = 'reflect',
) -> Array:
    """Strength of each frequency in each moment of a signal, `[b t] -> [b f m]`.

    The magnitudes of `torch.stft` to a power. Row i is the frequency i / n_fft of the sampling rate, up to one half;
    column j is the moment of sample `j * hop_length`, or the window that begins there if not `center`.

    Args:
      audio: `[b t]`; 16-bit floats are computed in float32.
      window: `[win_length]`, no longer than `n_fft`; multiplies each piece of the signal, such as `hann_window`.
      n_fft: samples of a Fourier transform; a shorter window is taken as padded with zeros on both sides.
      hop_length: samples from one moment to the next.
      power: of the magnitudes; 1 for themselves, 2 for energy.
      pad: zeros before and after the signal.
      center: continue the signal at both ends by half of `n_fft`, as `pad_mode` says, so that each window is
        centred on its moment.
      pad_mode: 'reflect', 'constant', 'replicate' or 'circular', as torch calls them.

    Returns:
      `[b n_fft // 2 + 1 m]`, where m is 1 + t // hop_length for a centred one without `pad`.

    Raises:
      ValueError: unknown `pad_mode`, a window longer than `n_fft`, or a signal too short.
    """
    check_choice('pad_mode', pad_mode, tuple(PAD_MODES))
    width = len(window)
    if not 0 < width <= n_fft or hop_length < 1:
        raise ValueError(f'n_fft={n_fft} must be at least win_length={width}, and hop_length={hop_length} at least 1')
    wide = jnp.promote_types(audio.dtype, jnp.float32)
    x = jnp.pad(audio.astype(wide), ((0, 0), (pad, pad)))
    samples, beyond = x.shape[1], n_fft // 2 if center else 0
    shortest = {'reflect': beyond + 1, 'circular': beyond, 'replicate': 1, 'constant': 0}[pad_mode] if center else 0
    if samples < shortest or samples + 2 * beyond < n_fft:
        raise ValueError(
            f'audio of {samples} samples is too short for n_fft={n_fft} with center={center} and pad_mode={pad_mode!r}'
        )
    x = jnp.pad(x, ((0, 0), (beyond, beyond)), mode=PAD_MODES[pad_mode])
    # Zeros around the window would only turn the phases, which are dropped: they can all come behind it.
    first = (n_fft - width) // 2
    starts = np.arange(0, x.shape[1] - n_fft + 1, hop_length)
    pieces = x[:, first + starts[:, None] + np.arange(width)]
    waves = jnp.fft.rfft(pieces * jnp.asarray(window, wide), n=n_fft)
    strength = waves.real**2 + waves.imag**2 if power == 2 else jnp.abs(waves) ** power
    return strength.swapaxes(1, 2)
