"""The modules that both sides have, what each took and gave, and the first at which they part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from vit_flax.cli.errors import as_user_error
from vit_flax.cli.torch_side import Call
from vit_flax.taps import Call as FlaxCall
from vit_flax.taps import watch

Path = tuple[str, ...]
# Modules that do nothing in evaluation.
INERT = ('Dropout', 'Identity')


@dataclass(frozen=True)
class Difference:
    """Between two lists of arrays.

    Attributes:
      absolute: the largest difference.
      relative: over the largest magnitude of torch's array; the worst of the arrays.
      reordered: the numbers agree, their order does not.
      comparable: False if there were no arrays, or none of equal size.
    """

    absolute: float = 0.0
    relative: float = 0.0
    reordered: bool = False
    comparable: bool = True

    def within(self, tolerance: float) -> bool:
        return self.comparable and self.relative <= tolerance


@dataclass(frozen=True)
class Tap:
    """One call of a module on both sides.

    Attributes:
      path: of the Flax module; () is the model itself.
      call: the torch module's.
      shape: of the first output in Flax.
      inputs, outputs: differences.
    """

    path: Path
    call: Call
    shape: tuple[int, ...]
    inputs: Difference
    outputs: Difference

    @property
    def label(self) -> str:
        return '/'.join(self.path) or '(the model)'


def run_beside(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: np.ndarray,
    calls: Sequence[Call],
    modules: Mapping[Path, str],
    own_names: Mapping[str, str],
    tolerance: float,
) -> list[Tap]:
    """Runs the Flax model and compares each call of a module that torch has too, in the order in which they end.

    Args:
      model: the Flax model.
      variables: its variables.
      images: `[b h w c]`.
      calls: of the torch model; the arrays of those that were compared are dropped.
      modules: Flax path -> vit-pytorch's name.
      own_names: the torch model's name of a module -> vit-pytorch's.
      tolerance: numbers closer than this are equal, if only their order differs.

    Raises:
      UserError: the model does not take these images.
    """
    theirs: dict[str, list[Call]] = {}
    for call in calls:
        theirs.setdefault(own_names.get(call.name, call.name), []).append(call)
    # where one torch module is two in Flax, the outer one does the same
    paths: dict[str, Path] = {}
    for path, name in sorted(modules.items(), key=lambda item: len(item[0])):
        paths.setdefault(name, path)
    found: list[Tap] = []

    def compare(mine: FlaxCall, output: Any) -> None:
        path = mine.path
        place = modules.get(path)
        if mine.method != '__call__' or place is None or paths[place] != path:
            return
        mine_in, mine_out = _arrays((mine.args, mine.kwargs)), _arrays(output)
        if mine_in is None or mine_out is None or not theirs.get(place) or isinstance(mine.module, nn.Dropout):
            return
        call = theirs[place].pop(0)
        inputs = difference(mine_in, call.inputs, tolerance)
        # of the model's own output the order matters
        outputs = difference(mine_out, call.outputs, tolerance, strict=not path)
        found.append(Tap(path, call, mine_out[0].shape if mine_out else (), inputs, outputs))
        call.inputs.clear()
        call.outputs.clear()

    with as_user_error('the Flax model'), watch(after=compare):
        model.apply(variables, images)
    return found


def difference(
    mine: Sequence[np.ndarray], theirs: Sequence[np.ndarray], tolerance: float, *, strict: bool = False
) -> Difference:
    """The worst over arrays at the same place, each in the layout of torch's that fits best.

    Args:
      mine: Flax's.
      theirs: torch's; channels may be second there, or axes merged.
      tolerance: relative, for what counts as the same numbers in another order.
      strict: every array must have its twin, and another order is a difference.
    """
    worst = Difference(comparable=bool(mine and theirs))
    if strict and len(mine) != len(theirs):
        return Difference(np.inf, np.inf)
    for ours, wanted in zip(mine, theirs, strict=False):
        if ours.size != wanted.size:
            return Difference(np.inf, np.inf, comparable=strict)
        layouts = [wanted] if wanted.ndim < 3 else [wanted, np.moveaxis(wanted, 1, -1)]
        found = min((_distance(ours.ravel(), layout.ravel()) for layout in layouts), key=lambda pair: pair[1])
        reordered = False
        if found[1] > tolerance and not strict:
            in_order = _distance(np.sort(ours, axis=None), np.sort(wanted, axis=None))
            reordered = in_order[1] <= tolerance
            found = in_order if reordered else found
        worst = Difference(
            max(worst.absolute, found[0]), max(worst.relative, found[1]), worst.reordered or reordered, worst.comparable
        )
    return worst


def first_difference(taps: Sequence[Tap], tolerance: float) -> Tap | None:
    """The innermost module whose inputs agree and whose output does not; None if the model's output agrees.

    A module inside one whose output agrees cannot be to blame: it computes the same in another way.
    """
    if taps[-1].outputs.within(tolerance):
        return None
    agreeing = {tap.path for tap in taps if tap.outputs.within(tolerance)}
    for tap in taps:
        inside = any(tap.path[:length] in agreeing for length in range(1, len(tap.path)))
        differs = tap.outputs.comparable and not tap.outputs.within(tolerance)
        if differs and tap.inputs.within(tolerance) and not inside:
            return tap
    return taps[-1]


def explain(first: Tap, taps: Sequence[Tap], calls: Sequence[Call], tolerance: float) -> str:
    """Where inside a module the difference arises, and what torch runs there; '' if it has no parts."""
    parts = [
        tap
        for tap in taps
        if tap is not first
        and tap.path[: len(first.path)] == first.path
        and first.call.start < tap.call.start
        and tap.call.end < first.call.end
    ]
    if not parts:
        return ''
    wrong = [tap for tap in parts if tap.inputs.comparable and not tap.inputs.within(tolerance)]
    after = min(wrong, key=lambda tap: tap.call.start, default=None)
    limit = after.call.start if after else first.call.end
    right = [tap for tap in parts if tap.call.end < limit and tap.outputs.within(tolerance)]
    before = max(right, key=lambda tap: tap.call.end, default=None)
    start = before.call.end if before else first.call.start
    end = after.call.start if after else first.call.end
    running = [
        f'{call.name} {call.text}'
        for call in calls
        if start < call.start and call.end < end and call.leaf and not call.text.startswith(INERT)
    ]
    names = ['/'.join(tap.path[len(first.path) :]) if tap else '' for tap in (before, after)]
    place = f'between {names[0] or "its input"} and {names[1] or "its output"}'
    return place + (f', where torch runs {", ".join(running)}' if running else '')


def _distance(mine: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Absolute and relative; NaN on one side is infinitely far, on both no difference."""
    if wanted.size == 0:
        return 0.0, 0.0
    mine, wanted = mine.astype(np.float64), wanted.astype(np.float64)
    same = (mine == wanted) | (np.isnan(mine) & np.isnan(wanted))  # infinities too
    with np.errstate(invalid='ignore'):
        apart = np.where(same, 0.0, np.abs(mine - wanted))
    absolute = float(np.where(np.isnan(apart), np.inf, apart).max())
    finite = np.abs(wanted[np.isfinite(wanted)])
    scale = max(float(finite.max(initial=0.0)), np.finfo(np.float64).tiny)
    return absolute, absolute / scale if absolute else 0.0


def _arrays(values: Any) -> list[np.ndarray] | None:
    """The numbers in a tree; None inside a transformation, where there are none yet."""
    leaves = [leaf for leaf in jax.tree.leaves(values) if isinstance(leaf, jax.Array | np.ndarray)]
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return None
    return [np.asarray(leaf) for leaf in leaves]
