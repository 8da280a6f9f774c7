"""What a run is: frozen dataclasses, written to `config.json` and set from the command line."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from train.data.source import Source
from train.errors import UserError
from train.objectives.objective import Objective

Dtype = Literal['float32', 'bfloat16']


@dataclass(frozen=True)
class Model:
    """The network.

    Attributes:
      name: of a model or a preset in `vit_flax.list_models()`.
      args: keyword arguments of the constructor; those that follow from the data need not be given.
      dtype: that the network computes in; parameters and the loss are always float32.
    """

    name: str
    args: Mapping[str, Any]
    dtype: Dtype = 'float32'


@dataclass(frozen=True)
class Optim:
    """AdamW with a linear warm-up and a cosine down to zero."""

    learning_rate: float = 1e-3
    """At the end of the warm-up, the highest it gets."""
    warmup: float = 0.1
    """Part of the steps in which the learning rate grows from zero."""
    weight_decay: float = 0.05
    """Decoupled, multiplied by the learning rate."""
    decay: tuple[str, ...] = ('.*/kernel',)
    """Regular expressions over parameter paths: those that match as a whole decay."""
    beta1: float = 0.9
    """Memory of Adam's mean."""
    beta2: float = 0.999
    """Memory of Adam's variance."""
    clip: float = 1.0
    """Largest norm of the whole gradient; 0 clips nothing."""
    ema: float = 0.0
    """Memory of a running average of the parameters, which is then what is evaluated; 0 keeps none."""


@dataclass(frozen=True)
class Mesh:
    """How many devices share each kind of work. The result is the same for any choice."""

    data: int = 0
    """Copies of the model that take different rows of a batch; 0 takes all devices that are left."""
    fsdp: int = 1
    """Devices that share rows of a batch and also the storage of parameters and optimizer state."""
    tensor: int = 1
    """Devices that share one matrix product, see `rules`."""
    seq: int = 1
    """Devices that share one image, by its rows of pixels."""
    rules: tuple[tuple[str, str], ...] = (
        (r'.*/to_(q|k|v|kv|qkv|qkv_and_mask|hidden)(/\w+)?/kernel', '* tensor'),
        ('.*/to_out/kernel', 'tensor *'),
        ('.*/expand(_and_gate)?/kernel', '* tensor'),
        ('.*/expand/bias', 'tensor'),
        ('.*/contract/kernel', 'tensor *'),
    )
    """Ordered pairs: a regular expression over parameter paths, and a word for each of the last axes: a mesh
    axis, `-` to keep it whole, or `*` to let fsdp have it. The first match counts."""
    fsdp_min_size: int = 16384
    """Parameters of fewer numbers are not split by fsdp."""
    distributed: bool = False
    """Join the processes of the other hosts first. On TPU pods and under Slurm JAX finds them by itself."""


@dataclass(frozen=True)
class Loader:
    """Who prepares the batches. The result is the same for any choice."""

    threads: int = 4
    """Threads that prepare batches ahead of time; 0 prepares them while the device waits."""
    workers: int = 0
    """Processes that do so instead, for augmentation that holds Python's lock."""
    prefetch: int = 16
    """Batches held ready."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One training run."""

    steps: int
    """Updates of the parameters."""
    batch_size: int
    """Examples in one step, over all devices."""
    seed: int = 0
    """Decides initial weights, order of the data, augmentation and dropout."""
    out: str = ''
    """Folder of the run. The same command finds the same folder and continues there.
    By default runs/RECIPE, with what the command line changed."""
    eval_every: int = 100
    """Steps between two looks at the held-out data."""
    save_every: int = 100
    """Steps between two checkpoints."""
    log_every: int = 10
    """Steps between two rows of metrics.jsonl."""
    plots: bool = True
    """Draw pictures at the end."""
    data: Source
    model: Model
    objective: Objective
    optim: Optim = field(default_factory=Optim)
    mesh: Mesh = field(default_factory=Mesh)
    loader: Loader = field(default_factory=Loader)


# Where and by how many a run is computed, not what: these may change when a run continues.
FREE_TO_CHANGE = ('out', 'plots', 'mesh', 'loader')


def to_json(config: Config) -> dict[str, Any]:
    """The config as plain JSON values; data and objective say their class under `kind`."""
    fields = dataclasses.asdict(config)
    for part in ('data', 'objective'):
        fields[part] = {'kind': type(getattr(config, part)).__name__, **fields[part]}
    return json.loads(json.dumps(fields))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys in which two JSON configs describe different runs, with both values."""
    old, new = ({k: v for k, v in _flat(c).items() if k.split('.')[0] not in FREE_TO_CHANGE} for c in (old, new))
    return {k: (old.get(k), new.get(k)) for k in sorted({*old, *new}) if old.get(k) != new.get(k)}


def _flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat.update(_flat(value, f'{prefix}{key}.') if isinstance(value, Mapping) else {prefix + key: value})
    return flat


def check(config: Config) -> None:
    """Raises a `UserError` that names the first value that makes no sense."""
    at_least = {
        1: ('steps', 'batch_size', 'eval_every', 'save_every', 'log_every', 'mesh.fsdp', 'mesh.tensor', 'mesh.seq',
            'loader.prefetch'),
        0: ('seed', 'optim.learning_rate', 'optim.weight_decay', 'optim.clip', 'mesh.data',
            'mesh.fsdp_min_size', 'loader.threads', 'loader.workers'),
    }  # fmt: skip
    values = _flat(dataclasses.asdict(config))
    for least, keys in at_least.items():
        for key in keys:
            if not values[key] >= least:
                raise UserError(f'{key}={values[key]} must be at least {least}')
    for key in ('optim.warmup', 'optim.beta1', 'optim.beta2', 'optim.ema'):
        if not 0 <= values[key] < 1:
            raise UserError(f'{key}={values[key]} must be at least 0 and below 1')
    config.data.check()
    config.objective.check()
