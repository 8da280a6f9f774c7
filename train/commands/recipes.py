"""`python -m train recipes`."""

import inspect
import re
from dataclasses import dataclass

from rich import box
from rich.table import Table

from train import catalogue, recipes
from train.commands.command import Command, console
from vit_flax.registry import presets


@dataclass(frozen=True, kw_only=True)
class Recipes(Command):
    """The recipes: what each one trains on what, and the result to expect."""

    def execute(self) -> int:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ('recipe', 'what', 'data', 'model', 'expect'):
            table.add_column(heading, no_wrap=heading in ('recipe', 'data', 'model'))
        for name in recipes.names():
            module = recipes.find(name)
            text = inspect.getdoc(module) or ''
            config = module.CONFIG
            title = text.partition('\n')[0]
            table.add_row(name, title, catalogue.name_of(config.data), _stem(config.model.name), _expected(text))
        console().print(table)
        return 0


def _stem(name: str) -> str:
    """The model that a name is a preset of, or the name itself."""
    return presets()[name][0].build.__module__.rpartition('.')[2] if name in presets() else name


def _expected(text: str) -> str:
    """What the docstring promises: the paragraph behind `Expect:`."""
    found = re.search(r'^Expect: (.*(?:\n(?!\n).*)*)', text, flags=re.MULTILINE)
    return ' '.join(found[1].split()) if found else ''
