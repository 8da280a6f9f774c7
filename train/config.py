"""What a run is: frozen dataclasses, written to `config.json` and set from the command line."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from train import catalogue, objectives, sources
from train.data.augment import Augment
from train.errors import UserError
from train.objectives.objective import Objective
from train.places import place, place_to_write
from train.sources.source import Source
from train.values import check_values

Dtype = Literal['float32', 'bfloat16']
Optimizer = Literal['adamw', 'lamb', 'lion', 'sgd', 'adafactor', 'muon']
Schedule = Literal['cosine', 'linear', 'rsqrt', 'constant']
Group = Literal['decay', 'plain', 'frozen']
Checkpoint = Literal['best', 'last']


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
    """How the parameters follow the gradient."""

    name: Optimizer = 'adamw'
    """AdamW (arXiv:1711.05101), LAMB (arXiv:1904.00962), Lion (arXiv:2302.06675), SGD with Nesterov's momentum,
    Adafactor as for ViT-G (arXiv:2106.04560), or Muon for the matrices of the network and AdamW for the rest
    (arXiv:2502.16982)."""
    learning_rate: float = 1e-3
    """At the end of the warm-up, the highest it gets."""
    schedule: Schedule = 'cosine'
    """What the learning rate does after the warm-up: half a cosine or a line down to `floor`, one over the square root
    of the step, or nothing."""
    warmup: float = 0.1
    """Part of the steps in which the learning rate grows from zero."""
    cooldown: float = 0.0
    """Part of the steps at the end in which it goes down to zero in a line; meant for rsqrt and constant."""
    floor: float = 0.0
    """Where cosine and linear end, as part of the highest learning rate."""
    weight_decay: float = 0.05
    """Decoupled, multiplied by the learning rate."""
    weight_decay_end: float | None = None
    """What it becomes until the last step, along half a cosine, as in DINO (arXiv:2104.14294); by default it stays."""
    groups: tuple[tuple[str, Group], ...] = (('.*/kernel', 'decay'), ('.*', 'plain'))
    """Ordered pairs: a regular expression over whole parameter paths, and whether its parameters decay, are trained
    without decay, or are frozen. The first match counts, and every parameter must have one. Modules whose parameters
    are all frozen are evaluated: they use their statistics and do not update them, and their dropout is off."""
    layer_decay: float = 1.0
    """Factor from the learning rate of a block to that of the block before it, as in arXiv:2106.08254; for
    fine-tuning, such as 0.75."""
    beta1: float = 0.9
    """Memory of the mean of the gradient, or momentum."""
    beta2: float = 0.999
    """Memory of the mean of its square; Lion's second one. Muon uses it for what is no matrix."""
    clip: float = 1.0
    """Largest norm of the whole gradient; 0 clips nothing."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after the other, to save memory. The result is that of the whole batch,
    but for draws inside the network, such as dropout's, and for BatchNorm, which normalises by each part alone and
    averages their statistics; of objectives that need the whole batch at once it is refused. Numbers that describe a
    batch in the rows, such as spreads, are means over the parts."""
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
    """Devices that share one image, by its rows of pixels, or one video, by its frames."""
    rules: tuple[tuple[str, str], ...] = (
        (r'.*/to_(q|k|v|qk|kv|qkv|qkv_and_mask|hidden)(/\w+)?/kernel', '* tensor'),
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

    threads: int = 1
    """Threads that prepare batches ahead of time; 0 prepares them while the device waits.
    1 for small images in memory, since more fight over Python's lock; for JPEG files as many as there are free cores:
    one of them prepares about 180 photographs of 1024x683 pixels in a second."""
    workers: int = 0
    """Processes that do so instead, for much augmentation, which holds Python's lock."""
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
    init: str = ''
    """Run, or file of weights, whose parameters this one begins with, for fine-tuning: a head of another shape is new,
    positions of another grid are resized."""
    init_image_size: tuple[int, ...] = ()
    """Height and width of the images that a file of weights was trained on, to resize its positions. A run knows its
    own."""
    eval_every: int = 100
    """Steps between two looks at the held-out data."""
    save_every: int = 100
    """Steps between two checkpoints."""
    log_every: int = 10
    """Steps between two rows of metrics.jsonl."""
    plots: bool = True
    """Draw pictures at the end."""
    data: Source
    augment: Augment = field(default_factory=Augment)
    model: Model
    objective: Objective
    optim: Optim = field(default_factory=Optim)
    mesh: Mesh = field(default_factory=Mesh)
    loader: Loader = field(default_factory=Loader)


# Where, by how many and from which copy of the data a run is computed, not what: this may change when it continues.
FREE_TO_CHANGE = ('out', 'plots', 'mesh', 'loader', 'data.path')


def to_json(config: Config) -> dict[str, Any]:
    """The config as plain JSON values; data and objective have their `name`."""
    fields = dataclasses.asdict(config)
    for part in ('data', 'objective'):
        fields[part] = {'name': catalogue.name_of(getattr(config, part)), **fields[part]}
    return json.loads(json.dumps(fields))


def from_json(values: Mapping[str, Any]) -> Config:
    """The config that `to_json` was given.

    Raises:
      UserError: it has other keys than this version of the trainer.
    """
    fields = _tuples(values)
    classes = {'model': Model, 'augment': Augment, 'optim': Optim, 'mesh': Mesh, 'loader': Loader}
    try:
        for part, package in (('data', sources), ('objective', objectives)):
            classes[part] = package.find(fields[part].pop('name'))
        for part, kind in classes.items():
            fields[part] = kind(**fields[part])
        config = Config(**fields)
        check_values(config)
        return config
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f'config.json is damaged or of another version of this trainer: {error}') from error


def _tuples(value: Any) -> Any:
    """JSON knows lists only, a config tuples only."""
    if isinstance(value, Mapping):
        return {key: _tuples(part) for key, part in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys in which two JSON configs describe different runs, with both values."""
    old, new = ({key: value for key, value in _flat(c).items() if not _is_free(key)} for c in (old, new))
    return {k: (old.get(k), new.get(k)) for k in sorted({*old, *new}) if old.get(k) != new.get(k)}


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f'{free}.') for free in FREE_TO_CHANGE)


def _flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat.update(_flat(value, f'{prefix}{key}.') if isinstance(value, Mapping) else {prefix + key: value})
    return flat


def check(config: Config) -> None:
    """Raises a `UserError` that names the first value that makes no sense."""
    check_values(config)
    place_to_write(config.out, 'out')
    place(config.init, 'init')
    place(getattr(config.data, 'path', ''), 'data.path')
    size = config.init_image_size
    if size and (len(size) > 2 or min(size) < 1 or not config.init):
        raise UserError(f'init_image_size={size} must be height and width, each at least 1, beside --init')
    at_least = {
        1: ('steps', 'batch_size', 'eval_every', 'save_every', 'log_every', 'mesh.fsdp', 'mesh.tensor', 'mesh.seq',
            'loader.prefetch', 'optim.accumulate'),
        0: ('seed', 'optim.learning_rate', 'optim.weight_decay', 'optim.clip', 'mesh.data',
            'mesh.fsdp_min_size', 'loader.threads', 'loader.workers'),
    }  # fmt: skip
    values = _flat(dataclasses.asdict(config))
    for least, keys in at_least.items():
        for key in keys:
            if not values[key] >= least:
                raise UserError(f'{key}={values[key]} must be at least {least}')
    end = config.optim.weight_decay_end
    if end is not None and not end >= 0:
        raise UserError(f'optim.weight_decay_end={end} must be at least 0')
    for key in ('optim.warmup', 'optim.cooldown', 'optim.beta1', 'optim.beta2', 'optim.ema'):
        if not 0 <= values[key] < 1:
            raise UserError(f'{key}={values[key]} must be at least 0 and below 1')
    for key in ('optim.learning_rate', 'optim.weight_decay', 'optim.weight_decay_end'):
        if (values[key] or 0) > 1e30:
            raise UserError(f'{key}={values[key]} must be at most 1e30')
    for key in ('optim.floor', 'optim.layer_decay'):
        if not 0 <= values[key] <= 1:
            raise UserError(f'{key}={values[key]} must lie between 0 and 1')
    if config.optim.warmup + config.optim.cooldown > 1:
        raise UserError(
            f'optim.warmup={config.optim.warmup} and optim.cooldown={config.optim.cooldown} together exceed the run'
        )
    if config.batch_size % config.optim.accumulate:
        raise UserError(f'optim.accumulate={config.optim.accumulate} does not divide batch_size={config.batch_size}')
    if config.optim.accumulate > 1 and config.objective.whole:
        raise UserError(
            f'optim.accumulate={config.optim.accumulate} must be 1 with the objective '
            f'{catalogue.name_of(config.objective)}: {config.objective.whole}'
        )
    config.data.check()
    config.augment.check()
    config.objective.check()
