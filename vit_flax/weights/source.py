"""A foreign source of weights: the tables of its classes of networks, how its state dicts are told and unwrapped."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from vit_flax.blocks.position_tables import OF_POSITIONS
from vit_flax.blocks.positions import Resampling
from vit_flax.printing import shown
from vit_flax.weights.check import problems
from vit_flax.weights.rows import Arrays, Row, match, renamed, to_ours, to_theirs

Report = Callable[[str], object]
Shapes = Mapping[str, tuple[int, ...]]
Configuration = tuple[str, dict[str, Any]]

# Of arguments that must be neither None nor 0, in `Family.requires`.
GIVEN: tuple[Any, ...] = ('neither None nor 0',)

# Of several copies of a network in one file the first of these is read: the one that its authors evaluate.
PREFERRED = ('state_dict_ema', 'model_ema', 'ema', 'teacher', 'target_encoder', 'model', 'state_dict', 'student')


# A stack of more is none: it may have no elements at all.
MAX_LAYERS = 10_000


def _none(model: Any) -> tuple[Row, ...]:
    return ()


@dataclass(frozen=True, eq=False)
class Family:
    """The names of one class of networks of a source.

    Attributes:
      title: what the source calls it.
      model: name of our class.
      also: other classes there with the same names.
      marks: beginnings of names that all its state dicts have, of any release; they are found behind any prefix. Of a
        tuple any must be there.
      absent: beginnings of names that none of them has.
      rows: of a model; the first that fits a name is taken.
      heads: of a model, of arrays that stand beside the network, outside of `prefix`.
      prefix: of the network where there are heads, such as `vit.`.
      always_prefixed: without heads too.
      requires: values that arguments of ours must have, for a model to be such a network.
      head_requires: likewise of models with a head.
      vintages: rows from other names to those of `rows`, such as older ones.
      stack: beginning of names of arrays that hold all blocks along their first axis: as if `{stack}_0` and so on.
      spelling: name and array in PyTorch's form, of files that have another, such as Flax's.
      left_out: beginnings of names that such state dicts may hold and that our network has no use for.
      constants: of a model, arrays that our network has no use for and that theirs needs: what is written for them.
      left_out_zero: beginnings of names that are left out too where they are zero.
      implied: our biases that theirs lack, each with the array that is as long: zero, or it cannot be written.
      positions: rows of their position table before those of the patches, where ours may have more or none; None where
        both have the same.
      configuration: arguments of our class, of the names and shapes of a network.
      is_written: whether it is what models that fit are written as.
    """

    title: str
    model: str
    marks: tuple[str | tuple[str, ...], ...]
    rows: Callable[[Any], Sequence[Row]]
    also: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    heads: Callable[[Any], Sequence[Row]] = _none
    prefix: str = ''
    always_prefixed: bool = False
    requires: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    head_requires: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    vintages: tuple[Row, ...] = ()
    stack: str = ''
    spelling: Callable[[str, Any], tuple[str, Any]] | None = None
    left_out: tuple[str, ...] = ()
    constants: Callable[[Any], Arrays] = lambda model: {}
    left_out_zero: tuple[str, ...] = ()
    implied: Mapping[str, str] = field(default_factory=dict)
    positions: int | None = None
    configuration: Callable[[Shapes], dict[str, Any]] | None = None
    is_written: bool = True

    def reason(self, model: Any) -> str | None:
        """Why a model is no such network; None if it is one."""
        if type(model).__name__ != self.model:
            return f'it is a {self.model} here, not a {type(model).__name__}'
        conditions = {**self.requires, **(self.head_requires if getattr(model, 'num_classes', 0) else {})}
        for argument, allowed in conditions.items():
            value = getattr(model, argument)
            if allowed is GIVEN and not value:
                return f'{argument}={value!r} should be {GIVEN[0]}'
            if allowed is not GIVEN and value not in allowed:
                return f'{argument}={value!r} should be {" or ".join(map(repr, allowed))}'
        return None

    def prefixes(self, names: Iterable[str]) -> list[str]:
        """The beginnings under which a state dict holds such networks; `['']` for one without a prefix."""
        if self.spelling is not None:
            names = [self.spelling(name, None)[0] for name in names]
        names = [*names]
        each = ((mark,) if isinstance(mark, str) else mark for mark in self.marks)
        found = set.intersection(*({place for one in mark for place in _before(one, names)} for mark in each))
        return sorted(found.difference(*(_before(mark, names) for mark in self.absent)))

    def read(self, model: Any, arrays: Arrays, prefix: str, shapes: Shapes, report: Report) -> dict[str, np.ndarray]:
        """The network below a prefix in our names.

        Raises:
          ValueError: names are missing, unexpected or of another shape than those that `shapes`, ours, have in theirs.
        """
        trunk, beside, outer = self._parts(arrays, prefix, report)
        rows, heads = self.rows(model), self.heads(model)
        # some writers forget the prefix
        bare = {name for name in beside if _is_named(rows, name) and not _is_named(heads, name)}
        trunk |= {name: beside.pop(name) for name in bare}
        trunk, beside = self._used(rows, trunk, prefix, model, report), self._used(heads, beside, outer, model, report)
        empty = {name: np.broadcast_to(np.zeros((), np.int8), shape) for name, shape in shapes.items()}
        wanted, wanted_beside = self._written(model, empty)
        wrong = problems(
            {prefix + name: array.shape for name, array in wanted.items()}
            | {outer + name: array.shape for name, array in wanted_beside.items()},
            {prefix + name: array.shape for name, array in trunk.items()}
            | {outer + name: array.shape for name, array in beside.items()},
        )
        if wrong:
            raise ValueError('\n  '.join([f'the state dict does not fit the model ({len(wrong)} problems):', *wrong]))
        ours = to_ours(rows, trunk)[0] | to_ours(heads, beside)[0]
        for name, as_long in self.implied.items():
            if name in shapes:
                ours[name] = np.zeros(len(ours[as_long]), ours[as_long].dtype)
        return _positions_to_ours(model, ours) if self.positions is not None else ours

    def write(self, model: Any, arrays: Arrays) -> dict[str, np.ndarray]:
        """The inverse of `read`.

        Raises:
          ValueError: the network has arrays that theirs has not.
        """
        trunk, beside = self._written(model, arrays)
        dtype = next(iter(trunk.values())).dtype
        trunk |= {name: array.astype(dtype) for name, array in self.constants(model).items()}
        prefix = self.prefix if beside or self.always_prefixed else ''
        theirs = {prefix + name: array for name, array in trunk.items()} | beside
        # memory of its own for each, as torch.from_numpy wants it
        return {name: np.array(array, order='C') for name, array in theirs.items()}

    def _written(self, model: Any, arrays: Arrays) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        for name in self.implied.keys() & arrays.keys():
            if arrays[name].any():
                raise ValueError(f'{self.title} has no {name}, which must be zero to be left out: it is not')
        arrays = {name: array for name, array in arrays.items() if name not in self.implied}
        if self.positions is not None:
            arrays = _positions_to_theirs(model, arrays, self.positions)
        beside, rest = to_theirs(self.heads(model), arrays)
        trunk, rest = to_theirs(self.rows(model), rest)
        if rest:
            some = ', '.join(sorted(rest)[:4]) + (f' and {len(rest) - 4} more' if len(rest) > 4 else '')
            raise ValueError(f'{self.title} has no {some}')
        return trunk, beside

    def _parts(
        self, arrays: Arrays, prefix: str, report: Report
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], str]:
        """The arrays of the network and those beside it, both without prefixes, and the prefix of the latter."""
        if self.spelling is not None:
            arrays = _once(self.spelling(name, array) for name, array in arrays.items())
        outer = prefix.removesuffix(self.prefix) if prefix.endswith(self.prefix) else prefix
        trunk, beside, outside = {}, {}, []
        for name, array in arrays.items():
            if name.startswith(prefix):
                trunk[name.removeprefix(prefix)] = array
            elif name.startswith(outer):
                beside[name.removeprefix(outer)] = array
            else:
                outside.append(name)
        if outer:
            report(f'read {len(trunk) + len(beside)} arrays below {shown(repr(outer))}')
        if outside:
            report(f'left out {len(outside)} arrays beside these: {summary(outside)}')
        if self.stack:
            trunk = _once(layer for name, array in trunk.items() for layer in self._unstacked(name, array))
        return self._newest(trunk), self._newest(beside), outer

    def _newest(self, arrays: Arrays) -> dict[str, np.ndarray]:
        found, rest = to_ours(self.vintages, arrays)
        if twice := found.keys() & rest.keys():
            raise ValueError(f'the state dict holds {shown(min(twice))} twice, under names of several releases')
        return {**rest, **found}

    def _unstacked(self, name: str, array: np.ndarray) -> list[tuple[str, np.ndarray]]:
        if not name.startswith(f'{self.stack}/') or array.ndim == 0 or len(array) > MAX_LAYERS:
            return [(name, array)]
        return [(f'{self.stack}_{i}{name.removeprefix(self.stack)}', layer) for i, layer in enumerate(array)]

    def _used(
        self, rows: Sequence[Row], arrays: dict[str, np.ndarray], prefix: str, model: Any, report: Report
    ) -> dict[str, np.ndarray]:
        """The arrays without those that our network has no use for."""
        useless = (*self.left_out, *self.constants(model))

        def is_dropped(name: str) -> bool:
            if _is_named(rows, name):
                return False
            if _begins(self.left_out_zero, name):
                return not arrays[name].any()
            return _begins(useless, name)

        dropped = [name for name in arrays if is_dropped(name)]
        if dropped:
            report(f'left out {len(dropped)} arrays without use here: {summary(prefix + name for name in dropped)}')
        return {name: array for name, array in arrays.items() if name not in dropped}


@dataclass(frozen=True, eq=False)
class Source:
    """Whose names they are.

    Attributes:
      name: the `source` of `from_torch` and `to_torch`.
      title: a line for `--help` and the documentation.
      families: the classes of networks; of those that fit a state dict, or a model, the first is taken.
      resampling: of position tables, where the source moves them to another grid.
    """

    name: str
    title: str
    families: tuple[Family, ...]
    resampling: Resampling = OF_POSITIONS

    def matches(self, names: Iterable[str]) -> bool:
        """Whether a state dict with these names is of this source, below any prefix."""
        return bool(self.found(names))

    def found(self, names: Iterable[str]) -> list[tuple[Family, list[str]]]:
        """The families that a state dict has the names of, each with the prefixes of its networks."""
        names = [*names]
        return [(family, prefixes) for family in self.families if (prefixes := family.prefixes(names))]

    def read(
        self, model: Any, state_dict: Arrays, shapes: Shapes, report: Report = lambda line: None
    ) -> dict[str, np.ndarray]:
        """A state dict of this source in the names and layouts of the model's own, nothing missing, nothing too much.

        Args:
          model: the Flax model.
          state_dict: names to arrays.
          shapes: of the model's own state dict.
          report: called with a line about each thing that is unwrapped or left out.

        Raises:
          ValueError: it does not fit the model.
        """
        found = self.found(state_dict)
        if not found:
            raise ValueError(f'source={self.name!r}: the state dict has none of the networks of {self.described()}')
        reasons = [family.reason(model) for family, _ in found]
        if all(reasons):
            raise ValueError(
                f'source={self.name!r}: the state dict is of {found[0][0].title}, which the model is not: {reasons[0]}'
            )
        family, prefixes = found[reasons.index(None)]
        prefix = preferred(prefixes)
        if len(prefixes) > 1:
            others = ', '.join(shown(repr(other)) for other in prefixes if other != prefix)
            report(f'of {len(prefixes)} networks took that below {shown(repr(prefix))}; the others: {others}')
        return family.read(model, state_dict, prefix, shapes, report)

    def write(self, model: Any, state_dict: Arrays) -> dict[str, np.ndarray]:
        """The inverse of `read`: what the source's own class loads strictly.

        Raises:
          ValueError: the source has no network that computes the same.
        """
        of_class = [one for one in self.families if one.is_written and one.model == type(model).__name__]
        if not of_class:
            known = ', '.join(dict.fromkeys(family.model for family in self.families))
            alone = ', but is read alone' if type(model).__name__ in known.split(', ') else ''
            not_for = alone or f', not for {type(model).__name__}'
            raise ValueError(f'source={self.name!r} has names for {known}{not_for}')
        reasons = [family.reason(model) for family in of_class]
        if all(reasons):
            each = '; '.join(f'{one.title}: {reason}' for one, reason in zip(of_class, reasons, strict=True))
            raise ValueError(f'source={self.name!r} has no network that computes what this model does ({each})')
        return of_class[reasons.index(None)].write(model, state_dict)

    def configuration(self, given: Mapping[str, Any], names: Iterable[str] = ()) -> Configuration:
        """Name and arguments for `create_model`, of what is given with the weights.

        Args:
          given: a state dict, of which only names and shapes count; of `huggingface` the fields of `config.json`.
          names: of the arrays, where they are not in `given`.

        Raises:
          ValueError: they do not tell.
        """
        found = self.found(given)
        if not found:
            raise ValueError(f'source={self.name!r}: the state dict has none of the networks of {self.described()}')
        family, prefixes = next((each for each in found if each[0].configuration), found[0])
        if family.configuration is None:
            raise ValueError(f'source={self.name!r}: the shapes of {family.title} do not tell its arguments')
        arrays = {name: np.broadcast_to(np.zeros((), np.int8), np.shape(array)) for name, array in given.items()}
        trunk, beside, _ = family._parts(arrays, preferred(prefixes), lambda line: None)
        shapes = {name: np.shape(array) for name, array in (beside | trunk).items()}
        try:
            return stem_of(family.model), family.configuration(shapes)
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f'the shapes do not tell the arguments of {family.title}: {error}') from error

    def array_names(self, model: Any, names: Iterable[str]) -> dict[str, str]:
        """Names of a network's arrays there to those that hold them here; names that are not of it are left out."""
        fitting = [family for family in self.families if family.reason(model) is None]
        found = {}
        for name in names:
            for family in fitting[:1]:
                rows = (*family.heads(model), *family.rows(model))
                newest = renamed(family.vintages, name.removeprefix(family.prefix))
                if _is_named(rows, newest) or any(row.theirs == '' for row in rows):
                    found[name] = renamed(rows, newest)
        return found

    def described(self) -> str:
        """Its networks, in one line."""
        return ', '.join(dict.fromkeys(family.title for family in self.families))


def preferred(prefixes: Sequence[str]) -> str:
    """The prefix of the network to read: the only one, or the first by `PREFERRED`.

    Raises:
      ValueError: several, none of which is to be preferred.
    """
    ranks = [_rank(prefix) for prefix in prefixes]
    if len(prefixes) > 1 and ranks.count(min(ranks)) > 1:
        raise ValueError(
            f'the state dict holds {len(prefixes)} networks, below {", ".join(shown(repr(one)) for one in prefixes)}: '
            'give one of them'
        )
    return prefixes[ranks.index(min(ranks))]


def _rank(prefix: str) -> int:
    parts = re.split(r'[./]', prefix)
    return next((rank for rank, name in enumerate(PREFERRED) if name in parts), len(PREFERRED) * (len(parts) > 1))


@cache
def _behind(pattern: str) -> re.Pattern[str]:
    """A name that begins with a pattern, and what stands before it."""
    text = re.sub(r'\\\{\w+\\\}', r'[0-9]+', re.escape(pattern))
    return re.compile(rf'((?:.*[./])?){text}(?:[./].*)?', re.DOTALL)


def _before(pattern: str, names: Iterable[str]) -> set[str]:
    """What stands before those of the names that begin with a pattern."""
    literal = pattern.partition('{')[0]  # which is found a thousand times as fast
    found = (_behind(pattern).fullmatch(name) for name in names if literal in name)
    return {match[1] for match in found if match}


def _once(pairs: Iterable[tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """A dict of names that must all be different."""
    found: dict[str, np.ndarray] = {}
    for name, array in pairs:
        if name in found:
            raise ValueError(f'the state dict holds {shown(name)} twice, in two spellings')
        found[name] = array
    return found


def _begins(patterns: Iterable[str], name: str) -> bool:
    return any(match(pattern, name) is not None for pattern in patterns)


def _is_named(rows: Sequence[Row], name: str) -> bool:
    """Whether there is a row for an array of theirs, other than one for all."""
    return any(pattern and match(pattern, name) is not None for row in rows for pattern in row.sides[0])


def summary(names: Iterable[str]) -> str:
    """The first parts of names, and how many have them."""
    names = [*names]
    counts = Counter(re.split(r'[./]', name)[0] for name in names)
    whole = {re.split(r'[./]', name)[0]: name for name in names}
    some = [f'{shown(top)}.* ({count})' if count > 1 else shown(whole[top]) for top, count in counts.most_common(4)]
    return ', '.join(some) + (f' and {len(counts) - 4} more' if len(counts) > 4 else '')


def stem_of(name: str) -> str:
    """`VisionTransformer` to `vision_transformer`."""
    found = {'HybridVisionTransformer': 'vision_transformer_hybrid'}
    return found.get(name) or re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', name).lower()


# Position tables: theirs has rows for tokens before the patches that ours adds to the tokens, or lacks.


def _positions_to_ours(model: Any, ours: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if 'pos_embed' not in ours or 'cls_token' not in ours:
        return ours
    table, wanted = ours['pos_embed'], model.num_prefix_positions
    there = table.shape[1] - model.grid.num_patches
    if wanted > there:  # tokens without a position
        none = np.zeros((1, wanted - there, table.shape[2]), table.dtype)
        return {**ours, 'pos_embed': np.concatenate([table[:, :there], none, table[:, there:]], axis=1)}
    if wanted < there:
        ours = {**ours, 'pos_embed': table[:, there:]}
        first = 0
        for name in ('cls_token', 'dist_token', 'reg_token'):
            if name in ours and first < there:
                last = first + ours[name].shape[1]
                ours[name], first = ours[name] + table[:, first : min(last, there)], last
    return ours


def _positions_to_theirs(model: Any, ours: Arrays, there: int) -> dict[str, np.ndarray]:
    if 'pos_embed' not in ours or 'cls_token' not in ours:
        return dict(ours)
    table, wanted = ours['pos_embed'], model.num_prefix_positions
    if wanted > there:
        if table[:, there:wanted].any():
            raise ValueError('pos_embed has positions of register tokens, which must be zero to be left out')
        table = np.concatenate([table[:, :there], table[:, wanted:]], axis=1)
    elif wanted < there:
        none = np.zeros((1, there - wanted, table.shape[2]), table.dtype)
        table = np.concatenate([none, table], axis=1)
    return {**ours, 'pos_embed': table}


# What the shapes of a network tell.

# Attention heads of the widths that were published with heads of another width than 64.
HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}


def heads_of(width: int) -> int:
    """Attention heads of a published ViT of this width, which no shape tells.

    Raises:
      ValueError: none was published.
    """
    if width not in HEADS and width % 64:
        raise ValueError(f'the shapes do not tell the number of attention heads of a width of {width}: give num_heads')
    return HEADS.get(width, width // 64)


def mlp_ratio_of(hidden: int, width: int) -> float:
    """The ratio of which `int(width * ratio)` is the hidden width."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else float(np.nextafter(ratio, np.inf))


def grid_of(patches: int) -> int:
    """Side of a square grid.

    Raises:
      ValueError: the patches form none.
    """
    side = round(patches**0.5)
    if side * side != patches:
        raise ValueError(f'the shapes do not tell the image size: {patches} patches form no square; give img_size')
    return side


def count_layers(names: Iterable[str], pattern: str) -> int:
    """One more than the largest number `{i}` of the names that begin with a pattern."""
    return 1 + max((int(found['i']) for name in names if (found := match(pattern, name))), default=-1)


def sizes_of(
    shapes: Shapes,
    *,
    kernel: str,
    positions: str,
    block: str,
    hidden: str,
    prefix: int,
    head: str = '',
) -> dict[str, Any]:
    """Sizes of a ViT, of the names that its arrays have in PyTorch's layout.

    Args:
      shapes: of all its arrays.
      kernel: of the patches, `[d c p q]`.
      positions: the table, `[... n d]`.
      block: beginning of the names of a block, with `{i}`.
      hidden: kernel of the first linear map of a feed-forward network, `[m d]`.
      prefix: rows of the table before those of the patches.
      head: kernel of the head, `[classes d]`; 0 classes without it.
    """
    if len(shapes[kernel]) != 4:
        raise ValueError(f'the shapes do not tell the sizes: {kernel} has shape {shapes[kernel]}, not 4 axes')
    width, channels, height, breadth = shapes[kernel]
    side = grid_of(shapes[positions][-2] - prefix)
    return dict(
        img_size=side * height if height == breadth else (side * height, side * breadth),
        patch_size=height if height == breadth else (height, breadth),
        in_chans=channels,
        num_classes=shapes[head][0] if head in shapes else 0,
        embed_dim=width,
        depth=count_layers(shapes, block),
        num_heads=heads_of(width),
        mlp_ratio=mlp_ratio_of(shapes[hidden][0], width),
    )


@dataclass(frozen=True, eq=False)
class OwnSource(Source):
    """A source whose newest names models have themselves; its families serve to recognise it alone.

    Attributes:
      newest: a state dict of an older release in the newest's names and layouts.
    """

    newest: Callable[[Any, Arrays], dict[str, np.ndarray]] = lambda model, arrays: dict(arrays)

    def read(
        self, model: Any, state_dict: Arrays, shapes: Shapes, report: Report = lambda line: None
    ) -> dict[str, np.ndarray]:
        """As `Source.read`, with whatever is missing or too much, which the caller reports."""
        prefix = prefix_of(state_dict, shapes)
        outside = [name for name in state_dict if not name.startswith(prefix)]
        if prefix:
            report(f'read {len(state_dict) - len(outside)} arrays below {shown(repr(prefix))}')
        if outside:
            report(f'left out {len(outside)} arrays beside these: {summary(outside)}')
        inside = {name.removeprefix(prefix): x for name, x in state_dict.items() if name.startswith(prefix)}
        return self.newest(model, inside)

    def write(self, model: Any, state_dict: Arrays) -> dict[str, np.ndarray]:
        """As it is."""
        return dict(state_dict)


def prefix_of(names: Iterable[str], wanted: Collection[str]) -> str:
    """The beginning of the names behind which most of those that are wanted are found."""
    counts: Counter[str] = Counter()
    for name in names:
        starts = [0, *(found.end() for found in re.finditer(r'[./]', name))]
        counts.update(name[:start] for start in starts if name[start:] in wanted)
    # older releases have other names for some
    if not counts or counts[''] * 2 >= max(counts.values()) or max(counts.values()) * 4 < len(wanted):
        return ''
    return preferred([prefix for prefix, count in counts.items() if count * 2 > max(counts.values())])
