"""The command line: a recipe, typed overrides, and errors that fit into a line."""

import dataclasses
import hashlib
import inspect
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro
from rich.console import Console
from rich.text import Text

from train import recipes
from train.config import Config, Dtype, Model, check, differences, to_json
from train.errors import Diverged, UserError
from train.model import FROM_DATA, options

USAGE = 'python -m train RECIPE [--key value ...]'
NAME_HELP = 'Model or preset of vit_flax.list_models(). Arguments of the recipe that it does not know are left out.'
DTYPE_HELP = 'Type that the network computes in; parameters and the loss are always float32.'


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns the exit code: 0, 2 for what the user can mend, 1 for a diverged run."""
    try:
        if not argv or argv[0] in ('-h', '--help'):
            sys.stdout.write(overview())
            return 0 if argv else 2
        config = parse(argv[0], argv[1:])
        check(config)
        _prepare_libraries()
        if config.mesh.distributed:
            _join_hosts()
        from train.loop import run  # the libraries of training are slow to import

        run(config)
    except UserError as error:
        return _fail(error, 2)
    except Diverged as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


def overview() -> str:
    """The recipes, with a line each."""
    titles = {name: _docstring(name).splitlines()[0] for name in recipes.names()}
    width = max(map(len, titles))
    lines = [f'usage: {USAGE}', '', 'recipes:']
    lines += [f'  {name:<{width}}  {title}' for name, title in titles.items()]
    lines += ['', 'python -m train RECIPE --help explains a recipe and every key that it takes.']
    return '\n'.join(lines) + '\n'


def parse(recipe: str, args: Sequence[str]) -> Config:
    """A recipe's config with the overrides of a command line; an unknown key ends the process with exit code 2.

    Raises:
      UserError: no such recipe, or no such model.
    """
    preset = recipes.find(recipe).CONFIG
    config = _override(preset, args, prog=f'python -m train {recipe}', description=_docstring(recipe))
    if config.out:
        return config
    changed = differences(to_json(_override(preset, [])), to_json(config))
    name = '-'.join([recipe, *(f'{key}={_plain(now)}' for key, (_, now) in changed.items())])
    if len(name) > 100:
        name = f'{recipe}-{hashlib.sha256(name.encode()).hexdigest()[:12]}'
    return dataclasses.replace(config, out=str(Path('runs', name)))


def _docstring(recipe: str) -> str:
    return inspect.getdoc(recipes.find(recipe)) or recipe


def _override(preset: Config, args: Sequence[str], prog: str = '', description: str = '') -> Config:
    """Parses with a config class made for this preset: its own data, objective, and the model's arguments."""
    model = _model_options(preset.model, _value_of('--model.name', args) or preset.model.name)
    fields = {field.name: getattr(preset, field.name) for field in dataclasses.fields(Config)} | {'model': model}
    own = [(key, type(fields[key]), dataclasses.field(default=fields[key])) for key in ('data', 'model', 'objective')]
    typed: Any = dataclasses.make_dataclass('Config', own, bases=(Config,), frozen=True, kw_only=True)
    parsed = tyro.cli(typed, args=list(args), default=typed(**fields), prog=prog, description=description)

    chosen = {field.name: getattr(parsed.model, field.name) for field in dataclasses.fields(parsed.model)}
    name, dtype = chosen.pop('name'), chosen.pop('dtype')
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in chosen.items()
        if not (key in FROM_DATA and value is None)
    }
    fields = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(Config)}
    return Config(**{**fields, 'model': Model(name, given, dtype)})


def _model_options(preset: Model, name: str) -> Any:
    """An instance of a dataclass with the fields of `Model`, and the model's own arguments in place of `args`."""
    fields: list[tuple[str, Any, Any]] = [
        ('name', Annotated[str, tyro.conf.arg(help=NAME_HELP)], dataclasses.field(default=name)),
        ('dtype', Annotated[Dtype, tyro.conf.arg(help=DTYPE_HELP)], dataclasses.field(default=preset.dtype)),
    ]
    for key, option in options(name).items():
        kind, default, text = option.type, preset.args.get(key, option.default), option.help
        if default is inspect.Parameter.empty:
            default = tyro.MISSING
        if key in FROM_DATA and key not in preset.args:
            kind, default, text = kind | None, None, f'{text} By default what the data have.'
        fields.append((key, Annotated[kind, tyro.conf.arg(help=text)], dataclasses.field(default=default)))
    options_class = dataclasses.make_dataclass('Model', fields, frozen=True, kw_only=True)
    options_class.__doc__ = 'The network and the arguments of its constructor.'
    return options_class()


def _value_of(key: str, args: Sequence[str]) -> str | None:
    """The value of `--key value` or `--key=value`: the model's name decides which other keys there are."""
    for i, arg in enumerate(args):
        if arg == key and i + 1 < len(args):
            return args[i + 1]
        if arg.startswith(key + '='):
            return arg.partition('=')[2]
    return None


def _plain(value: Any) -> str:
    """A value as part of a folder's name."""
    return re.sub(r'[^\w.+-]+', '_', str(value)).strip('_')


def _prepare_libraries() -> None:
    """Leaves the terminal to us, and keeps compiled programs for the next start."""
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    logging.getLogger('absl').setLevel(logging.ERROR)
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache', 'vit_flax', 'compiled')
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError:  # no home to write to: every start compiles anew
            return
        jax.config.update('jax_compilation_cache_dir', str(cache))
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)


def _join_hosts() -> None:
    try:
        jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        raise UserError(f'mesh.distributed: {error}') from error


def _fail(error: Exception, code: int) -> int:
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text.assemble(('error: ', 'bold red'), str(error)))
    return code
