"""The rows file: how a modified torch model's names become vit-pytorch's.

A TOML or JSON file with two keys, both optional:

    ignore = ["aux_head"]                                  # parts of the torch model that Flax has not

    [names]
    "blocks.{i}.attn" = "transformer.layers.{i}.0"         # theirs = vit-pytorch's
    "blocks.{i}.mlp.fc1" = "transformer.layers.{i}.1.net.1"
    '^stem\\.(\\d+)\\.' = 'to_patch_embedding.\\1.'            # a regular expression begins with ^

A row replaces the beginning of a name up to a dot or its end; what follows stays. The longest row that fits is
taken, once. `{i}` stands for any number, on the right also as `{2*i+1}`. A name without a row stays as it is.
"""

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vit_flax.cli.errors import UserError, nearest
from vit_flax.weights.table import PLACE

# Rows for a thousand kinds of layer.
MAX_LENGTH = 2**20


@dataclass(frozen=True)
class Row:
    """One row, ready to be applied."""

    source: str
    pattern: re.Pattern[str]
    target: str

    def apply(self, name: str) -> str | None:
        """The name with its beginning replaced, or None if the row does not fit."""
        match = self.pattern.match(name)
        if not match:
            return None
        if self.source.startswith('^'):
            return match.expand(self.target) + name[match.end() :]
        numbers = match.groupdict()
        target = PLACE.sub(
            lambda place: str(int(place[1] or 1) * int(numbers[place[2]]) + int(place[3] or 0)), self.target
        )
        return (target + name[match.end() :]).strip('.')


@dataclass(frozen=True)
class Rows:
    """A rows file; empty by default, when every name stays."""

    rows: tuple[Row, ...] = ()
    ignore: tuple[str, ...] = ()
    patterns: tuple[re.Pattern[str], ...] = field(default=(), repr=False)

    def rename(self, name: str) -> str:
        """vit-pytorch's name of a module or tensor."""
        for row in self.rows:
            renamed = row.apply(name)
            if renamed is not None:
                return renamed
        return name

    def ignored(self, name: str) -> bool:
        return any(pattern.match(name) for pattern in self.patterns)

    def translate(self, names: Iterable[str]) -> dict[str, str]:
        """Their names to vit-pytorch's, without the ignored ones.

        Raises:
          UserError: a row that fits no name, or two names that become one.
        """
        names = [*names]
        for row in self.rows:
            if not any(row.pattern.match(name) for name in names):
                raise UserError(
                    f'--rows: {row.source!r} fits no name of the model: {_nearest_beginning(row.source, names)}'
                )
        for source, pattern in zip(self.ignore, self.patterns, strict=True):
            if not any(pattern.match(name) for name in names):
                raise UserError(f'--rows: ignore {source!r} fits no name of the model')
        renamed: dict[str, str] = {}
        for name in names:
            if not self.ignored(name):
                target = self.rename(name)
                if target in renamed:
                    raise UserError(f'--rows: both {renamed[target]!r} and {name!r} become {target!r}')
                renamed[target] = name
        return {name: target for target, name in renamed.items()}


def read_rows(path: str | Path | None) -> Rows:
    """Reads a rows file; without one, nothing is renamed.

    Raises:
      UserError: no such file, no TOML or JSON, other keys, or a row that cannot be understood.
    """
    if path is None:
        return Rows()
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise ValueError('is no file')
        with path.open() as file:
            text = file.read(MAX_LENGTH + 1)
        if len(text) > MAX_LENGTH:
            raise ValueError(f'is longer than {MAX_LENGTH} characters')
        content = json.loads(text) if path.suffix == '.json' else tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:  # both parsers raise ValueErrors
        raise UserError(f'--rows {path}: {error}') from error
    if not isinstance(content, dict):
        raise UserError(f'--rows {path} must hold `names` and `ignore`')
    for key in content:
        if key not in ('names', 'ignore'):
            raise UserError(f'--rows {path}: unknown key {key!r}: {nearest(key, ["names", "ignore"])}')
    names, ignore = content.get('names', {}), content.get('ignore', [])
    _check(path, names, ignore)
    rows = [Row(source, _pattern(path, source, target), target) for source, target in names.items()]
    rows.sort(key=lambda row: (-row.source.count('.'), row.source.count('{'), -len(row.source)))
    return Rows(tuple(rows), tuple(ignore), tuple(_pattern(path, source, '') for source in ignore))


def _check(path: Path, names: Any, ignore: Any) -> None:
    if not isinstance(names, Mapping) or not all(isinstance(target, str) for target in names.values()):
        raise UserError(f'--rows {path}: `names` must be a table of "their name" = "vit-pytorch\'s name"')
    if not isinstance(ignore, list) or not all(isinstance(name, str) for name in ignore):
        raise UserError(f'--rows {path}: `ignore` must be a list of names')


def _pattern(path: Path, source: str, target: str) -> re.Pattern[str]:
    try:
        if source.startswith('^'):
            pattern = re.compile(source)
            re.sub(r'\\(\d+)', lambda group: '' if int(group[1]) <= pattern.groups else _no_group(group[0]), target)
            return pattern
        places = re.sub(r'\\\{(\w+)\\\}', r'(?P<\1>[0-9]+)', re.escape(source))
        pattern = re.compile(places + r'(?=\.|$)')
    except re.error as error:
        raise UserError(f'--rows {path}: {source!r} cannot be read: {error}') from error
    unknown = {place[2] for place in PLACE.finditer(target)} - set(pattern.groupindex)
    if unknown:
        raise UserError(f'--rows {path}: {target!r} has {{{unknown.pop()}}}, which {source!r} has not')
    return pattern


def _no_group(reference: str) -> str:
    raise re.error(f'there is no group {reference}')


def _nearest_beginning(source: str, names: Iterable[str]) -> str:
    """The nearest beginning of a name, as long as the row and numbers as `{i}`."""
    length = source.count('.') + 1
    beginnings = {'.'.join(re.sub(r'(?<![^.])\d+(?![^.])', '{i}', name).split('.')[:length]) for name in names}
    return nearest(source, beginnings)
