"""The contract of an objective: a linen module around a network, whose call returns a loss.

- `__call__(...)`: the loss, a scalar. Inputs and random draws are arguments; `train` is the last switch.
- `losses(...)`: the same for each example, `[b]`, where the loss is a mean over examples; the call is its mean.
- `draw(rng, images)`: what is random in a call, as keyword arguments.
- `post_update(variables)`: what must follow a step of the optimizer, such as the moving average of a teacher.
- `network(variables)`, `with_network(variables, network)`: the pretrained network out of the variables, and into them.

The network's variables are under `encoder`, whatever upstream calls it; those of a teacher are in collections of their
own (`vit_flax.objectives.teacher`).
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

from jax import Array

from vit_flax.blocks.module import Module
from vit_flax.objectives.teacher import teacher_variables, with_teacher

Variables = Mapping[str, Any]


@runtime_checkable
class PostUpdate(Protocol):
    """A module with a rule that must follow each step of the optimizer, such as nViT's normalisation of weights."""

    def post_update(self, variables: Variables) -> dict[str, Any]:
        """The variables after the rule; parameters are those that the optimizer has just updated."""
        ...


class Objective(Module, kw_only=True):
    """What every objective offers; see the head of this file.

    Attributes:
      PAPER: arguments with which the objective is the paper's, where they differ from upstream's defaults.
      encoder_argument: name of the argument that is the network.
      students: submodule that is a moving average -> submodule that it averages.
    """

    PAPER: ClassVar[Mapping[str, Any]] = {}
    encoder_argument: ClassVar[str] = 'encoder'
    students: ClassVar[Mapping[str, str]] = {}

    @property
    def given_encoder(self) -> Any:
        """The network as it was given: it has sizes, and no variables."""
        return getattr(self, self.encoder_argument)

    def draw(self, rng: Array, images: Array) -> dict[str, Array]:
        """What is random in a call for these images, as keyword arguments; by default nothing."""
        del rng, images
        return {}

    def post_update(self, variables: Variables, decay: float | Array | None = None) -> dict[str, Any]:
        """The variables after a step of the optimizer; by default as they are.

        Args:
          variables: of the objective, parameters updated.
          decay: of the moving average, where it follows a schedule; None is the objective's own.
        """
        del decay
        return dict(variables)

    @classmethod
    def network(cls, variables: Variables) -> dict[str, Any]:
        """The variables of the network that the paper evaluates, as `network.apply` takes them."""
        return encoder_variables(variables)

    @classmethod
    def with_network(cls, variables: Variables, network: Variables) -> dict[str, Any]:
        """The objective's variables, begun with a network's, and so are those of its moving averages."""
        begun = with_encoder(variables, network)
        for name in cls.students:
            if teacher := teacher_variables(variables, name):
                begun = with_teacher(begun, with_encoder(teacher, network, 'net'), name)
        return begun


def encoder_variables(objective_variables: Variables, name: str = 'encoder') -> dict[str, Any]:
    """The variables of the encoder alone, out of those of an objective that trained it.

    They are what `encoder.apply` takes, and `vit_flax.to_torch(encoder, ...)`.

    Args:
      objective_variables: `{'params': ..., ...}` of the objective.
      name: of the encoder within the objective.

    Raises:
      ValueError: there is no such module in the variables.
    """
    found = {collection: tree[name] for collection, tree in objective_variables.items() if name in tree}
    if 'params' not in found:
        modules = sorted(objective_variables.get('params', {}))
        raise ValueError(f'the variables hold no {name!r}: their modules are {", ".join(modules) or "none"}')
    return found


def with_encoder(objective_variables: Variables, encoder: Variables, name: str = 'encoder') -> dict[str, Any]:
    """The variables of an objective with those of an encoder in them: the way back from `encoder_variables`."""
    changed = {collection: {**objective_variables[collection], name: tree} for collection, tree in encoder.items()}
    return {**objective_variables, **changed}
