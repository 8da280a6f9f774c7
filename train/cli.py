"""The command line: a recipe with typed overrides, or a command, and errors that fit into a line."""

import dataclasses
import hashlib
import inspect
import io
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from train import catalogue, commands, recipes, sources
from train.commands.command import complain
from train.config import Config, Dtype, Model, check, differences, to_json
from train.errors import Diverged, UserError, is_out_of_memory, nearest
from train.hosts import joined
from train.model import FROM_DATA, options
from train.sources.source import Source

USAGE = 'python -m train RECIPE [--key value ...]\n       python -m train COMMAND ...'
DRY_RUN_HELP = 'Write nothing: show parameters, memory and FLOPs, and make one step.'
NAME_HELP = 'Model or preset of vit_flax.list_models(). Arguments of the recipe that it does not know are left out.'
# A network of recipes that have that of `--init`, for their help.
EXAMPLE = 'vit_small_patch16_224'
DTYPE_HELP = 'Type that the network computes in; parameters and the loss are always float32.'


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns the exit code: 0, 2 for user errors, 1 for a diverged run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may have bytes that are no letters
            stream.reconfigure(errors='backslashreplace')
    try:
        if not argv or argv[0] in ('-h', '--help'):
            sys.stdout.write(overview())
            return 0 if argv else 2
        name, *args = argv
        if name in commands.names():
            with _enough_memory():
                return _execute(name, args)
        if name not in recipes.names():
            known = [*recipes.names(), *commands.names()]
            raise UserError(f'no recipe or command is called {name!r}: {nearest(name, known)}')
        _train(*parse(name, args))
    except (UserError, Diverged) as error:
        complain(error)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


@contextmanager
def _enough_memory() -> Iterator[None]:
    """What a device or the host cannot hold as one clear error."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        first = str(error).partition('\n')[0] or type(error).__name__
        raise UserError(
            f'not enough memory ({first}): try a smaller batch_size, a larger optim.accumulate, --model.remat full, or '
            'mesh.fsdp over more devices; what was saved is untouched'
        ) from error


def _train(config: Config, dry_run: bool) -> None:
    _prepare_libraries()
    # What one of several processes finds wrong it can tell the others once it has met them.
    with joined(config, dry_run) if config.mesh.distributed else nullcontext(), _enough_memory():
        check(config)
        # The libraries of training are slow to import.
        if dry_run:
            from train.dry_run import dry_run as show

            show(config)
        else:
            from train.loop import run

            run(config)


def _execute(name: str, args: Sequence[str]) -> int:
    chosen = commands.find(name).parse(name, args)
    _prepare_libraries()
    return chosen.execute()


def overview() -> str:
    """The recipes and commands, with a line each."""
    about = {
        'recipes': {name: _docstring(name).splitlines()[0] for name in recipes.names()},
        'commands': {name: (inspect.getdoc(commands.find(name)) or '').splitlines()[0] for name in commands.names()},
    }
    width = max(len(name) for titles in about.values() for name in titles)
    lines = [f'usage: {USAGE}']
    for part, titles in about.items():
        lines += ['', f'{part}:', *(f'  {name:<{width}}  {title}' for name, title in titles.items())]
    lines += ['', 'python -m train RECIPE --help explains a recipe and every key that it takes,']
    lines += ['python -m train COMMAND --help what a command does.']
    return '\n'.join(lines) + '\n'


def parse(recipe: str, args: Sequence[str]) -> tuple[Config, bool]:
    """A recipe's config with the overrides of a command line, and whether it is only tried; see `parse_with`."""
    config, chosen = parse_with(recipe, args, {'dry_run': (bool, DRY_RUN_HELP)})
    if config.out:
        return config, chosen['dry_run']
    preset = parse_with(recipe, [] if recipes.find(recipe).CONFIG.model.name else ['--init', config.init])[0]
    changed = differences(to_json(dataclasses.replace(preset, init='')), to_json(config))
    name = '-'.join([recipe, *(f'{key}={_plain(now)}' for key, (_, now) in changed.items())])
    if len(name) > 100:
        name = f'{recipe}-{hashlib.sha256(name.encode()).hexdigest()[:12]}'
    return dataclasses.replace(config, out=str(Path('runs', name))), chosen['dry_run']


def parse_with(
    recipe: str, args: Sequence[str], own: Mapping[str, tuple[type, str]] | None = None, command: str = ''
) -> tuple[Config, dict[str, Any]]:
    """A recipe's config with the overrides of a command line, and the options of the command itself.

    An unknown key ends the process with exit code 2.

    Args:
      recipe: its name.
      args: the command line behind it.
      own: type and help of options that are no part of the config, by name; off or empty by default.
      command: that takes a recipe, for the help.

    Raises:
      UserError: no such recipe, or no such model.
    """
    prog = ' '.join(['python -m train', *([command] if command else []), recipe])
    return _override(recipes.find(recipe).CONFIG, args, own or {}, prog=prog, description=_docstring(recipe))


def _docstring(recipe: str) -> str:
    return inspect.getdoc(recipes.find(recipe)) or recipe


def _override(
    preset: Config, args: Sequence[str], own: Mapping[str, tuple[type, str]], prog: str, description: str
) -> tuple[Config, dict[str, Any]]:
    """Parses with a config class made for this preset: its own objective, the data set, and the model's arguments."""
    if not preset.model.name:
        preset = _begun_with(preset, _value_of('--init', args), {'-h', '--help'} & {*args} != set())
    model = _model_options(preset.model, _value_of('--model.name', args) or preset.model.name)
    data = _data_options(preset.data, _value_of('--data.name', args) or catalogue.name_of(preset.data))
    fields = {field.name: getattr(preset, field.name) for field in dataclasses.fields(Config)}
    fields |= {'model': model, 'data': data}
    parts = ('data', 'augment', 'model', 'objective')
    typed_fields: list[Any] = [(key, type(fields[key]), dataclasses.field(default=fields[key])) for key in parts]
    for key, (kind, text) in own.items():
        typed_fields.append((key, Annotated[kind, tyro.conf.arg(help=text)], dataclasses.field(default=kind())))
    typed: Any = dataclasses.make_dataclass('Config', typed_fields, bases=(Config,), frozen=True, kw_only=True)
    parsed = tyro.cli(typed, args=list(args), default=typed(**fields), prog=prog, description=description)

    chosen = {field.name: getattr(parsed.model, field.name) for field in dataclasses.fields(parsed.model)}
    name, dtype = chosen.pop('name'), chosen.pop('dtype')
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in chosen.items()
        if not (key in FROM_DATA and value is None)
    }
    source = sources.find(parsed.data.name)
    of_source = {field.name: getattr(parsed.data, field.name) for field in dataclasses.fields(source)}
    fields = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(Config)}
    config = Config(**{**fields, 'model': Model(name, given, dtype), 'data': source(**of_source)})
    return config, {key: getattr(parsed, key) for key in own}


def _begun_with(preset: Config, init: str | None, for_help: bool) -> Config:
    """A recipe without a network of its own, with that of `--init`, and its size and normalisation of images."""
    if for_help and not init:
        return dataclasses.replace(preset, model=Model(EXAMPLE, {}))
    if not init:
        raise UserError(
            f'--init is missing: a run, a file of weights, or a name such as {EXAMPLE}.augreg_in21k_ft_in1k'
        )
    from train.origin import origin

    found = origin(init)
    augment = dataclasses.replace(preset.augment, image_size=found.image_size, mean=found.mean, std=found.std)
    return dataclasses.replace(preset, init=init, model=found.model, augment=augment)


def _data_options(preset: Source, name: str) -> Any:
    """An instance of the data set's class with a `name` in front; the recipe's values if it is the recipe's."""
    kind = sources.find(name)
    values = {field.name: getattr(preset, field.name) for field in dataclasses.fields(preset)}
    annotated = Annotated[str, tyro.conf.arg(help=f'Data set: {", ".join(sources.names())}.')]
    options_class = dataclasses.make_dataclass(
        'Data', [('name', annotated, dataclasses.field(default=name))], bases=(kind,), frozen=True
    )
    options_class.__doc__ = kind.__doc__
    return options_class(**(values if kind is type(preset) else {}))


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
    # What stops a writer of checkpoints or events in its thread reaches us when we wait for it, or write ourselves.
    for library in ('absl', 'asyncio'):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    threading.excepthook = _but_failed_writes(threading.__excepthook__)
    sys.unraisablehook = _but_failed_writes(sys.__unraisablehook__)
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        try:
            cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache', 'vit_flax', 'compiled')
            if not cache.is_absolute():
                return
            cache.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError):  # no home, or none to write to: every start compiles anew
            return
        jax.config.update('jax_compilation_cache_dir', str(cache))
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)


def _but_failed_writes(hook: Callable) -> Callable:
    """The hook for errors that nobody catches, silent about writers of files and what they leave behind."""
    return lambda args: (
        None if isinstance(args.exc_value, OSError) or str(args.exc_value) == 'Event loop is closed' else hook(args)
    )
