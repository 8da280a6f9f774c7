"""AcceptVideoWrapper against upstream's, around models that return one output, several, and feature maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import vit_flax
from parity_tests.bridge import randomise, relative_error
from parity_tests.cases.cvt import SMALL as CVT_SIZE
from parity_tests.cases.vit import SMALL as VIT_SIZE
from parity_tests.upstream import upstream_module
from vit_flax.blocks.module import Module
from vit_flax.models.cvt import CvT
from vit_flax.models.vit import ViT
from vit_flax.models.vivit_with_moss import MOSS
from vit_flax.wrappers.accept_video_wrapper import AcceptVideoWrapper
from vit_flax.wrappers.extractor import Extractor

SHAPE = (2, 3, 24, 36, 3)
TOKENS = {**VIT_SIZE, 'num_classes': 0, 'depth': 1}
TIME = dict(add_time_pos_emb=True, dim_emb=20, time_seq_len=5)
MOTION = dict(dim=10, local_time=3, local_height=3, local_width=1, hidden_dim=6, orders=1, causal=True)


def wrap(settings, vit=TOKENS, extract=False):
    """Both sides with the same weights: `(theirs, ours, variables)`."""
    theirs, ours = upstream_module('vit').ViT(**vit), ViT(**vit)
    if extract:
        theirs, ours = upstream_module('extractor').Extractor(theirs, **extract), Extractor(ours, **extract)
    theirs = upstream_module('accept_video_wrapper').AcceptVideoWrapper(theirs, **settings).double()
    randomise(theirs, np.random.default_rng(0))
    model = AcceptVideoWrapper(ours, **settings)
    return theirs, model, vit_flax.from_torch(model, theirs.state_dict(), source='vit_pytorch')


def check(theirs, model, variables, **call):
    """Outputs and gradients of one loss over all outputs."""
    video = np.random.default_rng(1).normal(size=SHAPE)
    want = jax.tree.leaves(theirs(torch.from_numpy(np.moveaxis(video, -1, 1).copy()), **call))
    weights = [np.random.default_rng(2).normal(size=tuple(output.shape)) for output in want]
    sum((output * torch.from_numpy(weight)).sum() for output, weight in zip(want, weights, strict=True)).backward()

    @jax.jit
    def run(params):
        def loss(params):
            outputs = jax.tree.leaves(model.apply({**variables, 'params': params}, video, **call))
            return sum((output * weight).sum() for output, weight in zip(outputs, weights, strict=True)), outputs

        (_, outputs), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return outputs, grads

    got, grads = run(variables['params'])
    for mine, wanted in zip(got, want, strict=True):
        assert mine.shape == wanted.shape
        assert relative_error(mine, wanted.detach().numpy()) <= 1e-10
    named = vit_flax.to_torch(model, {**variables, 'params': grads}, source='vit_pytorch')
    for name, parameter in theirs.named_parameters():
        wanted = np.zeros(parameter.shape) if parameter.grad is None else parameter.grad.numpy()
        assert relative_error(named[name], wanted, floor=1e-6) <= 1e-9, name
    return grads


@pytest.mark.parametrize(
    'settings',
    [
        {},
        TIME,
        dict(proj_embed_to_dim=10, dim_emb=20),
        {**TIME, 'proj_embed_to_dim': 10, 'moss': MOTION},
    ],
    ids=['plain', 'time', 'projection', 'all'],
)
def test_tokens(settings):
    check(*wrap(settings))


def test_one_vector_for_each_frame():
    check(*wrap({**TIME, 'dim_emb': 7}, VIT_SIZE))


def test_extractor_without_gradient_into_the_model():
    settings = {**TIME, 'output_pos_add_pos_emb': 1, 'proj_embed_to_dim': 10, 'moss': MOTION}
    parts = wrap(settings, {**VIT_SIZE, 'depth': 1}, extract=dict(layer_name='transformer'))
    grads = check(*parts, eval_with_no_grad=True)
    assert all(not leaf.any() for leaf in jax.tree.leaves(grads['vit']))
    assert grads['pos_emb'].any() and grads['moss']['to_out']['kernel'].any()


@pytest.mark.parametrize('extract', [dict(return_embeddings_only=True, detach=False), dict(layer_save_input=True)])
def test_other_extractors(extract):
    theirs, model, variables = wrap({}, {**VIT_SIZE, 'depth': 1}, extract)
    video = np.random.default_rng(1).normal(size=SHAPE)
    want = jax.tree.leaves(theirs(torch.from_numpy(np.moveaxis(video, -1, 1).copy())))
    got = jax.tree.leaves(model.apply(variables, video))
    for mine, wanted in zip(got, want, strict=True):
        assert relative_error(mine, wanted.detach().numpy()) <= 1e-10


def test_feature_maps_methods_and_statistics():
    """A method of a model with BatchNorm that returns maps, in training: as the frames by themselves."""
    net = CvT(**CVT_SIZE)
    model = AcceptVideoWrapper(net, forward_function='encode', add_time_pos_emb=True, dim_emb=20, time_seq_len=4)
    video = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 32, 44, 3)))
    variables = model.init(jax.random.key(0), video)
    maps, state = model.apply(variables, video, train=True, mutable=['batch_stats'])
    of_net = {name: tree['image_net'] for name, tree in variables.items() if name == 'batch_stats'}
    of_net['params'] = {**variables['params']['image_net']}
    frames = video.reshape(6, 32, 44, 3)
    want, want_state = net.apply(of_net, frames, train=True, mutable=['batch_stats'], method='encode')
    added = variables['params']['pos_emb'][:3, None, None]
    np.testing.assert_allclose(maps, want.reshape(2, 3, *want.shape[1:]) + added, atol=1e-5)
    got_state = state['batch_stats']['image_net']
    for mine, wanted in zip(*map(jax.tree.leaves, (got_state, want_state['batch_stats'])), strict=True):
        np.testing.assert_allclose(mine, wanted, atol=1e-6)


def test_channels_first():
    """A model that gives `[b d h w]`."""

    class Net(torch.nn.Module):
        def forward(self, images):
            return images[:, :, ::4, ::9]

    class FlaxNet(Module):
        def __call__(self, images):
            return jnp.moveaxis(images, -1, 1)[:, :, ::4, ::9]

    settings = dict(add_time_pos_emb=True, dim_emb=3, time_seq_len=4, embed_is_channel_first=True)
    theirs = upstream_module('accept_video_wrapper').AcceptVideoWrapper(Net(), **settings).double()
    video = np.random.default_rng(1).normal(size=SHAPE)
    want = theirs(torch.from_numpy(np.moveaxis(video, -1, 1).copy())).detach().numpy()
    got = AcceptVideoWrapper(FlaxNet(), **settings).apply(
        {'params': {'pos_emb': theirs.pos_emb.detach().numpy()}}, video
    )
    assert relative_error(got, want) <= 1e-12


def test_initial_values_and_a_module_as_moss():
    model = AcceptVideoWrapper(ViT(**TOKENS), **{**TIME, 'time_seq_len': 2000}, moss=MOSS(**{**MOTION, 'dim': 20}))
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2, 24, 36, 3)))
    table = variables['params']['pos_emb']
    assert table.shape == (2000, 20) and abs(table.std() / 1e-2 - 1) < 0.02 and abs(table.mean()) < 1e-3
    assert set(variables['params']) == {'image_net', 'pos_emb', 'moss'}


@pytest.mark.parametrize(
    'settings, shape, says',
    [
        (TIME, (2, 6, 24, 36, 3), 'the video has 6 frames, time_seq_len=5 is too short'),
        (TIME, (2, 24, 36, 3), r'layout \[b t h w c\], got shape \(2, 24, 36, 3\)'),
        (dict(add_time_pos_emb=True, time_seq_len=5), SHAPE, 'dim_emb=None must be given'),
        (dict(add_time_pos_emb=True, dim_emb=20), SHAPE, 'time_seq_len=None must be given'),
        (dict(output_pos_add_pos_emb=1), SHAPE, 'output_pos_add_pos_emb=1 is none of the 1 outputs'),
        (dict(moss={**MOTION, 'dim': 20}, patch_size=2), SHAPE, 'moss needs tokens .*at least 12 x 18'),
    ],
)
def test_mistakes(settings, shape, says):
    model = AcceptVideoWrapper(ViT(**TOKENS), **settings)
    with pytest.raises(ValueError, match=says):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))


def test_no_patch_size_and_no_such_layer():
    video = jnp.zeros((1, 2, 32, 44, 3))
    with pytest.raises(ValueError, match='patch_size=None must be given for moss'):
        jax.eval_shape(AcceptVideoWrapper(CvT(**CVT_SIZE), moss=MOTION).init, jax.random.key(0), video)
    net = Extractor(ViT(**TOKENS), layer_name='transfomer')
    with pytest.raises(ValueError, match="layer_name='transfomer' is no submodule"):
        jax.eval_shape(AcceptVideoWrapper(net).init, jax.random.key(0), jnp.zeros(SHAPE))
