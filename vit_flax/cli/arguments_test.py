import argparse
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest

from vit_flax.cli.arguments import Option, chosen_model, literal, parse, type_name
from vit_flax.cli.errors import UserError
from vit_flax.registry import model_info

SIZE = ['image_size=32,16', 'patch_size=8', 'num_classes=10', 'dim=24', 'depth=2', 'heads=3', 'mlp_dim=40']


def choose(model: str | None, *args: str, preset: str | None = None):
    return chosen_model(argparse.Namespace(model=model, preset=preset, arg=[*args]))


def value(text: str, hint: Any) -> Any:
    return parse('--arg x', text, Option(hint, None, '', True))


def test_values_follow_the_types():
    assert value('3', int) == 3 and value('3', str) == '3' and value('mean', str) == 'mean'
    assert type(value('3', float)) is float and value('1e-3', float) == 1e-3
    assert value('(1,2)', int | Sequence[int]) == value('1,2', int | Sequence[int]) == (1, 2)
    assert value('[[1, 2], [3, 4]]', Sequence[tuple[int, int]]) == ((1, 2), (3, 4))
    assert value('true', bool) is True and value('none', int | None) is None
    assert value('a', Literal['a', 'b']) == 'a'
    for text, hint in (
        ('1.5', int),
        ('true', int),
        ('1', bool),
        ('a', float),
        ('1,2,3', tuple[int, int]),
        ('c', Literal['a']),
    ):
        with pytest.raises(UserError, match=r'--arg x=.* must be '):
            value(text, hint)


def test_no_code_is_run():
    assert literal('__import__("os").getcwd()') == '__import__("os").getcwd()'
    assert literal('(' * 10000) == '(' * 10000


def test_types_are_named():
    assert type_name(int | Sequence[int]) == 'int | list of int'
    assert type_name(Literal['a', 'b'] | None) == "'a' | 'b' | none"
    assert type_name(Callable[..., Any]) == 'a constructor'


def test_a_model_is_chosen():
    chosen = choose('vit', *SIZE)
    assert chosen.kwargs['image_size'] == (32, 16)
    assert chosen.build().dim == 24
    assert choose('vit', 'num-classes=7', preset='vit_pytorch_tiny_patch16_224').kwargs['num_classes'] == 7
    assert choose(None, preset='vit_pytorch_tiny_patch16_224').kwargs == choose('vit_pytorch_tiny_patch16_224').kwargs
    assert choose('simple_vit', preset='paper').build() == model_info('simple_vit').build(
        **model_info('simple_vit').paper_size
    )


@pytest.mark.parametrize(
    'arguments, says',
    [
        ((None,), r'which model\?'),
        (('vitt',), "'vitt': did you mean 'vit'"),
        (('vit', 'dim=24', 'depht=2'), "no argument 'depht': did you mean 'depth'"),
        (('vit', 'dim=24'), r'also needs .*--arg image_size=\.\.\. --arg patch_size=\.\.\.'),
        (('vit', 'dim'), "'dim' must be KEY=VALUE"),
        (('vit', 'dim=1', 'dim=2'), 'given twice'),
        (('vit', 'dim=wide'), r"dim='wide' must be int"),
        (('efficient', 'transformer=3'), 'takes a .*, which no command line can give'),
    ],
)
def test_mistakes(arguments, says):
    with pytest.raises(UserError, match=says):
        choose(*arguments)


def test_unknown_presets():
    with pytest.raises(UserError, match="no preset of 'vit': did you mean 'vit_pytorch_tiny_patch16_224'"):
        choose('vit', preset='vit_pytorch_tiny_patch16_225')
