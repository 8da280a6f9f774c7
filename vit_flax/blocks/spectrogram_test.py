"""The spectrogram against torch.stft, of which torchaudio's is made."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vit_flax.blocks.spectrogram import hann_window, spectrogram, spectrogram_shape

MODES = ('reflect', 'constant', 'replicate', 'circular')
ENDS = [*itertools.product((0, 5), (True,), MODES), (0, False, 'reflect'), (5, False, 'reflect')]


def of_torch(audio, window, n_fft, hop_length, power, pad, center, pad_mode):
    """As torchaudio's documentation puts it together."""
    padded = torch.nn.functional.pad(audio, (pad, pad))
    sizes = dict(n_fft=n_fft, hop_length=hop_length, win_length=len(window), window=window)
    return torch.stft(padded, **sizes, center=center, pad_mode=pad_mode, return_complex=True).abs() ** power


def check(width, n_fft, hop_length, power=2.0, pad=0, center=True, pad_mode='reflect'):
    """Value, gradient and shape of 59 samples."""
    shape = dict(n_fft=n_fft, hop_length=hop_length, pad=pad, center=center)
    settings = dict(**shape, power=power, pad_mode=pad_mode)
    audio = np.random.default_rng(0).normal(size=(2, 59))
    signal = torch.from_numpy(audio).requires_grad_()
    theirs = of_torch(signal, torch.hann_window(width, dtype=torch.float64), **settings)
    weights = np.random.default_rng(1).normal(size=theirs.shape)
    (theirs * torch.from_numpy(weights)).sum().backward()
    want, slope = theirs.detach().numpy(), np.asarray(signal.grad)
    with jax.enable_x64(True):
        got, pull_back = jax.vjp(lambda x: spectrogram(x, hann_window(width), **settings), jnp.asarray(audio))
        (gradient,) = pull_back(jnp.asarray(weights))
    assert got.shape[1:] == spectrogram_shape(59, **shape)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * np.abs(want).max())
    np.testing.assert_allclose(gradient, slope, rtol=0, atol=1e-12 * np.abs(slope).max())


@pytest.mark.parametrize('pad, center, pad_mode', ENDS)
def test_ends_equal_torch(pad, center, pad_mode):
    check(7, 16, 3, pad=pad, center=center, pad_mode=pad_mode)


@pytest.mark.parametrize('width, n_fft, hop_length', [(16, 16, 5), (10, 15, 4), (1, 8, 2), (9, 59, 60)])
def test_sizes_equal_torch(width, n_fft, hop_length):
    check(width, n_fft, hop_length)


@pytest.mark.parametrize('power', [1.0, 3.0, 0.5])
def test_powers_equal_torch(power):
    check(7, 16, 3, power)


@pytest.mark.parametrize('length', [1, 2, 5, 24, 400])
def test_window_equals_torch(length):
    np.testing.assert_allclose(hann_window(length), torch.hann_window(length, dtype=torch.float64), atol=1e-15)


def test_silence_has_a_gradient():
    def loss(audio, power):
        return spectrogram(audio, hann_window(8), n_fft=8, hop_length=2, power=power).sum()

    for power in (1.0, 2.0):
        assert not jax.grad(loss)(jnp.zeros((1, 32)), power).any()


def test_half_precision_is_computed_in_float32():
    audio = jnp.asarray(np.random.default_rng(0).normal(size=(1, 32)), jnp.bfloat16)
    got = spectrogram(audio, hann_window(8), n_fft=8, hop_length=2)
    want = spectrogram(audio.astype(jnp.float32), hann_window(8), n_fft=8, hop_length=2)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    'samples, settings, says',
    [
        (8, dict(n_fft=16), 'audio of 8 samples is too short for n_fft=16 with center=True'),
        (15, dict(n_fft=16, center=False), 'audio of 15 samples is too short'),
        (64, dict(n_fft=6), 'n_fft=6 must be at least win_length=8'),
        (64, dict(n_fft=16, pad_mode='mirror'), "pad_mode='mirror' is unknown: use one of 'reflect'"),
    ],
)
def test_mistakes(samples, settings, says):
    with pytest.raises(ValueError, match=says):
        spectrogram(jnp.zeros((1, samples)), hann_window(8), hop_length=2, **settings)
