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
from train.places import place, place_to_write, shortened
from train.sources.source import Source
from train.values import check_values

Dtype = Literal['float32', 'bfloat16']
Optimizer = Literal['adamw', 'lamb', 'lion', 'sgd', 'adafactor', 'muon']
Reduction = Literal['computation', 'float32', 'bfloat16']
Schedule = Literal['cosine', 'linear', 'rsqrt', 'constant']
Group = Literal['decay', 'plain', 'frozen']
Checkpoint = Literal['best', 'last']


@dataclass(frozen=True)
class Model:
    """The network.

    Attributes:
      name: of a model or a preset in `vit_flax.list_models()`.
      args: keyword arguments of the constructor, except those that follow from the data.
      dtype: computation dtype of the network (mixed precision); parameters and the loss are always float32.
    """

    name: str
    args: Mapping[str, Any]
    dtype: Dtype = 'float32'


@dataclass(frozen=True)
class Optim:
    """The optimizer and its schedules."""

    name: Optimizer = 'adamw'
    """AdamW (arXiv:1711.05101), LAMB (arXiv:1904.00962), Lion (arXiv:2302.06675), SGD with Nesterov's momentum,
    Adafactor as for ViT-G (arXiv:2106.04560), or Muon for the matrices of the network and AdamW for the rest
    (arXiv:2502.16982)."""
    learning_rate: float = 1e-3
    """Peak learning rate, reached at the end of the warm-up."""
    schedule: Schedule = 'cosine'
    """Learning rate schedule after the warm-up: cosine or linear decay to `floor`, inverse square root of the step, or
    constant."""
    warmup: float = 0.1
    """Linear warm-up, as a fraction of the steps."""
    cooldown: float = 0.0
    """Linear cool-down to zero at the end, as a fraction of the steps; meant for rsqrt and constant."""
    floor: float = 0.0
    """Final learning rate of cosine and linear, as a fraction of the peak."""
    weight_decay: float = 0.05
    """Decoupled, multiplied by the learning rate."""
    weight_decay_end: float | None = None
    """Final weight decay of a cosine schedule, as in DINO (arXiv:2104.14294); constant by default."""
    groups: tuple[tuple[str, Group], ...] = (('.*/kernel', 'decay'), ('.*', 'plain'))
    """Ordered pairs: a regular expression over whole parameter paths, and whether its parameters decay, are trained
    without decay, or are frozen. The first match wins, and every parameter must match. Modules whose parameters
    are all frozen run in evaluation mode: BatchNorm statistics are used, not updated, and dropout is off."""
    layer_decay: float = 1.0
    """Layer-wise learning rate decay: the factor between a block and the one before it, as in BEiT (arXiv:2106.08254);
    for fine-tuning, such as 0.75."""
    beta1: float = 0.9
    """Adam beta1; momentum of SGD, Lion and Muon."""
    beta2: float = 0.999
    """Adam beta2, also of LAMB; Lion beta2. Muon uses it for parameters that are no matrices."""
    clip: float = 1.0
    """Gradient clipping by global norm; 0 turns it off."""
    accumulate: int = 1
    """Gradient accumulation: micro-batches per step, to save memory. The result is that of the whole batch, except for
    randomness inside the network, such as dropout, and for BatchNorm, which normalises each micro-batch and averages
    their statistics; objectives that need the whole batch at once refuse it. Metrics of a batch, such as standard
    deviations, are means over the micro-batches."""
    moment_dtype: Dtype = 'float32'
    """Data type of the first moment: of AdamW, LAMB, Lion and Muon, and the momentum of SGD and Adafactor. In bfloat16
    it takes half the memory; the second moment stays in float32. State is not offloaded to the memory of hosts."""
    gradient_reduction: Reduction = 'computation'
    """Data type in which devices sum their gradients of matrices: that of the network's computation, so that with
    `model.dtype` bfloat16 half the bytes are sent, or another one."""
    ema: float = 0.0
    """EMA decay: an exponential moving average of the parameters, which is then evaluated; 0 turns it off."""


@dataclass(frozen=True)
class Mesh:
    """The device mesh: data, fully sharded, tensor and sequence parallelism. It does not change the result."""

    data: int = 0
    """Data parallelism: replicas of the model, each with its rows of the batch; 0: all remaining devices."""
    fsdp: int = 1
    """Fully sharded data parallelism (FSDP, ZeRO-3): parameters and optimizer state are sharded too."""
    tensor: int = 1
    """Tensor parallelism of matrix products, see `rules`."""
    seq: int = 1
    """Sequence parallelism: an image is split by its rows of pixels, a video by its frames."""
    rules: tuple[tuple[str, str], ...] = (
        (r'.*/to_(q|k|v|qk|kv|qkv|qkv_and_mask|hidden)(/\w+)?/kernel', '* tensor'),
        ('.*/to_out/kernel', 'tensor *'),
        ('.*/expand(_and_gate)?/kernel', '* tensor'),
        ('.*/expand/bias', 'tensor'),
        ('.*/contract/kernel', 'tensor *'),
    )
    """Ordered pairs: a regular expression over parameter paths, and a word for each of the last axes: a mesh
    axis, `-` to replicate it, or `*` to leave it to fsdp. The first match wins."""
    fsdp_min_size: int = 16384
    """Parameters of fewer elements are replicated instead of sharded by fsdp."""
    distributed: bool = False
    """Join the processes of the other hosts first. On TPU pods, under Slurm and under Open MPI JAX finds them by
    itself; elsewhere `coordinator`, `processes` and `process` tell. See docs/scale.md."""
    coordinator: str = ''
    """HOST:PORT at which process 0 listens for the others, the same for all."""
    processes: int | None = None
    """Number of processes, one or more on each host."""
    process: int | None = None
    """Index of this process: 0, 1, ... processes - 1."""
    timeout: float = 300.0
    """Seconds within which all processes must have come; then those that did name the missing ones and end."""
    heartbeat_timeout: float = 40.0
    """Seconds without a heartbeat after which a process counts as lost, and the others end to be started again."""


@dataclass(frozen=True)
class Loader:
    """The data loader. It does not change the result."""

    threads: int = 1
    """Loader threads; 0 loads in the training loop while the device waits.
    1 for small images in memory, since more contend for Python's lock; for JPEG files as many as there are free cores:
    each loads about 180 photographs of 1024x683 pixels per second."""
    workers: int = 0
    """Loader processes instead of threads, for heavy augmentation, which holds Python's lock."""
    prefetch: int = 16
    """Batches loaded ahead."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One training run."""

    steps: int
    """Optimizer steps. An epoch has as many as the training set has batches."""
    batch_size: int
    """Global batch size, over all devices."""
    seed: int = 0
    """Random seed of initial weights, data order, augmentation and dropout."""
    out: str = ''
    """Output folder of the run. The same command finds the same folder and resumes there.
    By default runs/RECIPE, with the options of the command line."""
    init: str = ''
    """Fine-tuning: what to initialise from: a run; a file or folder of pretrained weights; or a name that
    `vit_flax.from_pretrained` takes, of timm or the Hugging Face hub. A head of another shape is initialised anew,
    position embeddings of another grid are interpolated."""
    init_image_size: tuple[int, ...] = ()
    """Image size (height and width) that the file of pretrained weights was trained at, to interpolate its position
    embeddings. A run has it recorded."""
    eval_every: int = 100
    """Evaluate on the validation set every N steps."""
    save_every: int = 100
    """Save a checkpoint every N steps."""
    log_every: int = 10
    """Log metrics to metrics.jsonl every N steps."""
    plots: bool = True
    """Plot curves, predictions, attention maps and the confusion matrix at the end."""
    profile: int = 0
    """Trace N steps with JAX's profiler into the folder `profile` of the run, from the third step on; 0: none."""
    data: Source
    augment: Augment = field(default_factory=Augment)
    model: Model
    objective: Objective
    optim: Optim = field(default_factory=Optim)
    mesh: Mesh = field(default_factory=Mesh)
    loader: Loader = field(default_factory=Loader)


# Where, by how many and from which copy of the data a run is computed, not what: this may change when it continues.
FREE_TO_CHANGE = ('out', 'plots', 'profile', 'mesh', 'loader', 'data.path')


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
    old, new = (
        {key: value for key, value in _flat(c).items() if not _is_among(key, FREE_TO_CHANGE)} for c in (old, new)
    )
    return {k: (old.get(k), new.get(k)) for k in sorted({*old, *new}) if old.get(k) != new.get(k)}


def _is_among(key: str, keys: tuple[str, ...]) -> bool:
    return any(key == other or key.startswith(f'{other}.') for other in keys)


def _flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat.update(_flat(value, f'{prefix}{key}.') if isinstance(value, Mapping) else {prefix + key: value})
    return flat


# May be another on each host: how its process finds the others, and how and from where it loads.
OWN_OF_A_HOST = ('out', 'plots', 'loader', 'data.path', 'mesh.coordinator', 'mesh.processes', 'mesh.process',
                 'mesh.timeout')  # fmt: skip


def differences_of_hosts(first: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys in which the options of two processes of one run must not differ and do, with both values."""
    first, other = _flat(first), _flat(other)
    return {
        key: (first.get(key), other.get(key))
        for key in sorted({*first, *other})
        if first.get(key) != other.get(key) and not _is_among(key, OWN_OF_A_HOST)
    }


def check_hosts(mesh: Mesh) -> None:
    """Raises a `UserError` if the options that lead to the other processes make no sense."""
    check_values(mesh, 'mesh.')
    given = [name for name in ('coordinator', 'processes', 'process') if getattr(mesh, name) not in ('', None)]
    if given and not mesh.distributed:
        value = shortened(str(getattr(mesh, given[0])))
        raise UserError(f'mesh.{given[0]}={value} is for several processes: add --mesh.distributed')
    for name, least in (('timeout', 0.1), ('heartbeat_timeout', 1)):
        if not getattr(mesh, name) >= least:
            raise UserError(f'mesh.{name}={getattr(mesh, name)} must be at least {least} seconds')
    host, _, port = mesh.coordinator.rpartition(':')
    plain = ':' not in host or host[0] + host[-1] == '[]'
    if mesh.coordinator and not (host and plain and port.isdecimal() and port.isascii() and 0 < int(port) < 2**16):
        raise UserError(f'mesh.coordinator={shortened(mesh.coordinator)} must be HOST:PORT, the port from 1 to 65535')
    if mesh.processes is not None and mesh.processes < 1:
        raise UserError(f'mesh.processes={mesh.processes} must be at least 1')
    if mesh.process is not None and not 0 <= mesh.process < (mesh.processes or mesh.process + 1):
        below = f' and below mesh.processes={mesh.processes}' if mesh.processes else ''
        raise UserError(f'mesh.process={mesh.process} must be at least 0{below}')


def check(config: Config) -> None:
    """Raises a `UserError` that names the first value that makes no sense."""
    check_values(config)
    check_hosts(config.mesh)
    place_to_write(config.out, 'out')
    place(config.init, 'init')
    place(getattr(config.data, 'path', ''), 'data.path')
    size = config.init_image_size
    if size and (len(size) > 2 or min(size) < 1 or not config.init):
        raise UserError(f'init_image_size={size} must be height and width, each at least 1, beside --init')
    at_least = {
        1: ('steps', 'batch_size', 'eval_every', 'save_every', 'log_every', 'mesh.fsdp', 'mesh.tensor', 'mesh.seq',
            'loader.prefetch', 'optim.accumulate'),
        0: ('seed', 'profile', 'optim.learning_rate', 'optim.weight_decay', 'optim.clip', 'mesh.data',
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
