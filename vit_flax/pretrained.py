"""Published weights by name: a checkpoint on disk or of the Hugging Face hub as a network with its variables."""

import contextlib
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_flax import hub
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import check_choice
from vit_flax.blocks.module import example_inputs
from vit_flax.image_transform import Preprocessing, of_pretrained_cfg, of_processor
from vit_flax.printing import shown
from vit_flax.registry import create_model, list_models, sized, stems
from vit_flax.weights import from_torch, timm
from vit_flax.weights.files import FileError, read_arrays, read_contents
from vit_flax.weights.fit import fit
from vit_flax.weights.source import Report
from vit_flax.weights.sources import SOURCES, recognised

# By preference; of a repository the first that is there is read.
FILES = (
    'model.safetensors',
    'model.safetensors.index.json',
    'pytorch_model.bin',
    'pytorch_model.bin.index.json',
    'flax_model.msgpack',
)
# Before a name that could be a path, too.
HUB = 'hf-hub:'
CONFIG, PROCESSOR = 'config.json', 'preprocessor_config.json'
# Names of one argument, in the order in which they are tried.
ARGUMENTS = {
    'image_size': ('img_size', 'image_size'),
    'patch_size': ('patch_size',),
    'num_classes': ('num_classes',),
    'in_chans': ('in_chans', 'channels', 'n_input_channels'),
}
# Descriptions of the classes of ImageNet-1k, in their order.
IMAGENET, IMAGENET_CLASSES = Path(__file__).parent / 'weights' / 'imagenet.txt', 1000
# Networks that an error names.
SHOWN = 6


@dataclass(frozen=True)
class Checkpoint:
    """Weights that were found, and what is known of them before they are read.

    Attributes:
      name: for people: where they are, of the hub with the commit.
      files: of the weights; more than one where they are sharded.
      model: name of the network, as for `create_model`; empty where neither the caller nor a configuration names it.
      args: its arguments.
      source: whose names the file has; empty where only the names can tell.
      images: arguments of `Preprocessing` beside the size; None where nothing says how images are prepared.
      classes: names of the outputs in their order; empty where they are unknown.
    """

    name: str
    files: tuple[Path, ...]
    model: str = ''
    args: Mapping[str, Any] = field(default_factory=dict)
    source: str = ''
    images: Mapping[str, Any] | None = None
    classes: tuple[str, ...] = ()

    @property
    def preprocessing(self) -> Preprocessing:
        """How its images are prepared."""
        if not self.model or self.images is None:
            tags = timm.published().get(self.model, {}).get('tags', {})
            hint = f': name the weights too, such as model={self.model}.{next(iter(tags))}' if tags else ''
            raise ValueError(f'{self.name}: no configuration says how its images are prepared{hint}')
        (images,) = example_inputs(create_model(self.model, **self.args))
        _, height, width, _ = images.shape
        return Preprocessing((height, width), **self.images)

    def class_names(self, count: int) -> tuple[str, ...]:
        """Of so many outputs: the configuration's; of a thousand without names, ImageNet-1k's; otherwise numbers."""
        if len(self.classes) == count:
            return self.classes
        if count == IMAGENET_CLASSES:
            return tuple(IMAGENET.read_text(encoding='utf-8').splitlines())
        return tuple(f'class {i}' for i in range(count))

    def load(self, report: Report | None = None, **kwargs: Any) -> tuple[Backbone, dict[str, Any], str]:
        """The network at the checkpoint's own sizes, its variables, and the source whose names the file has.

        Args:
          report: called with a line about each thing that is taken off or left out.
          **kwargs: arguments of the network that win over the checkpoint's.

        Raises:
          ValueError: names and shapes do not tell source or network, or do not fit them.
        """
        arrays: dict[str, np.ndarray] = {}
        for file in self.files:
            arrays |= read_arrays(file)
        found = _completed(self, arrays)
        network = create_model(found.model, **{**found.args, **kwargs})
        return network, from_torch(network, arrays, source=found.source, report=report), found.source


def from_pretrained(
    name: str | Path,
    *,
    model: str = '',
    source: str = '',
    image_size: int | Sequence[int] | None = None,
    patch_size: int | Sequence[int] | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    resize_as: str = '',
    dtype: Any = None,
    param_dtype: Any = None,
    revision: str | None = None,
    cache: str | None = None,
    offline: bool = False,
    key: Any = None,
    report: Report | None = None,
    **kwargs: Any,
) -> tuple[Backbone, dict[str, Any]]:
    """A network with published weights.

    Args:
      name: a file or folder on disk; a repository of the hub, `google/vit-base-patch16-224` or `hf-hub:google/...`,
        also with a revision behind an `@`; or one of timm's names with its tag, `vit_base_patch16_224.augreg_in21k`.
      model: name of the network as for `create_model`, for a file without a configuration that does not tell.
      source: whose names the file has; recognised if left out.
      image_size: height and width in pixels; position tables are resampled as the source does it.
      patch_size: likewise; the patch projection is resized (arXiv:2212.08013).
      num_classes: another number draws a new head, 0 leaves it out.
      in_chans: channels of the images; the first kernel is folded or repeated.
      resize_as: the source by whose convention position tables are resampled, instead of the file's own.
      dtype: of the computation.
      param_dtype: of the parameters; those of the file if left out.
      revision: branch, tag or commit of the repository.
      cache: folder of the hub's cache.
      offline: take it from the cache alone.
      key: for what is drawn, `jax.random.key(0)` if left out.
      report: called with a line about each thing that is taken off or left out, such as `print`.
      **kwargs: other arguments of the network, such as `scan=True` or `drop_path_rate=0.1`.

    Returns:
      The network, and its variables `{'params': ..., ...}`.

    Raises:
      ValueError: nothing of that name, no network that fits, or arrays that are missing, unexpected or misshapen: all
        of them in one report. Files that cannot be read or downloaded raise `FileError`, which is one.
    """
    if resize_as:
        check_choice('resize_as', resize_as, tuple(SOURCES))
    found = open_checkpoint(name, model=model, source=source, revision=revision, cache=cache, offline=offline)
    old, variables, own = found.load(report, **kwargs, **({} if dtype is None else {'dtype': dtype}))
    sizes = {'image_size': image_size, 'patch_size': patch_size, 'num_classes': num_classes, 'in_chans': in_chans}
    new = old.clone(**_arguments(old, sizes))
    if new != old:
        resampling = SOURCES[resize_as or own].resampling_of(old)
        variables = fit(variables, old, new, resampling, jax.random.key(0) if key is None else key)
    if param_dtype is not None:
        variables = jax.tree.map(
            lambda leaf: leaf.astype(param_dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, variables
        )
    return new, variables


def open_checkpoint(
    name: str | Path,
    *,
    model: str = '',
    source: str = '',
    image_size: int | Sequence[int] | None = None,
    revision: str | None = None,
    cache: str | None = None,
    offline: bool = False,
) -> Checkpoint:
    """What is known of a checkpoint; of the hub, it is downloaded. For the arguments see `from_pretrained`."""
    path = Path(name)
    found = _on_disk(path) if path.exists() else _of_hub(str(name), revision, cache, offline)
    if model:
        if model not in stems() and sized(model) is None:
            raise ValueError(f'model={model!r} is no network{_near(model)}')
        found = replace(found, model=model, args={}, images=found.images or _images_of(model))
    if source:
        check_choice('source', source, tuple(SOURCES))
        found = replace(found, source=source)
    if image_size is not None and found.model:
        network = create_model(found.model, **found.args)
        found = replace(found, args={**found.args, **_arguments(network, {'image_size': image_size})})
    return found


def _on_disk(path: Path) -> Checkpoint:
    """A file, with the configuration that may lie beside it, or a folder."""
    if path.is_file():
        if path.name in FILES and (path.parent / CONFIG).is_file():
            return _configured(str(path), path.parent, (path,))
        return Checkpoint(str(path), (path,))
    if (path / '_METADATA').exists():  # orbax
        return Checkpoint(str(path), (path,))
    here = [path / file for file in FILES if (path / file).is_file()]
    if not here:
        raise FileError(f'{shown(path)} holds no weights: none of {", ".join(FILES)}')
    return _configured(str(path), path, tuple(_shards(here[0], lambda file: path / file)))


def _of_hub(name: str, revision: str | None, cache: str | None, offline: bool) -> Checkpoint:
    repository, _, after = name.removeprefix(HUB).partition('@')
    revision = revision or after or None
    if '/' not in repository:
        base = repository.partition('.')[0]
        if timm.tagged(repository) is None:
            tags = timm.published().get(base, {}).get('tags', {})
            if base == repository and tags:
                raise ValueError(
                    f'{name!r} has several weights, name one: {", ".join(f"{base}.{tag}" for tag in tags)}'
                    if len(tags) > 1
                    else f'{name!r} is a network; its weights are {base}.{next(iter(tags))}'
                )
            raise ValueError(f'{name!r} is no file, no repository owner/name, and none of timm{_near(repository)}')
        repository = f'timm/{repository}'
    elif not name.startswith(HUB) and not _is_repository(repository):
        raise FileError(f'{shown(name)}: there is no such file or folder')
    options: dict[str, Any] = {'cache': cache, 'offline': offline}
    config = hub.download(repository, CONFIG, revision=revision, **options)
    # all files of one commit, whatever is pushed meanwhile
    revision = hub.commit(config) or revision

    def get(file: str) -> Path:
        return hub.download(repository, file, revision=revision, **options)

    for file in FILES:
        try:
            first = get(file)
        except hub.NotInRepository:
            continue
        except hub.HubError:
            if offline and file != FILES[-1]:  # what is not in the cache may be in another format
                continue
            raise
        files = tuple(_shards(first, get))
        with contextlib.suppress(hub.HubError if offline else hub.NotInRepository):
            get(PROCESSOR)
        return _configured(f'{repository} at {revision}' if revision else repository, config.parent, files)
    raise hub.HubError(f'{repository} holds no weights: none of {", ".join(FILES)}')


def _is_repository(name: str) -> bool:
    """A name of the hub, which may have dots, as timm's tags do, and not the path of a file that is missing."""
    owner, _, rest = name.partition('/')
    known = ('.safetensors', '.bin', '.pth', '.pt', '.npz', '.msgpack', '.ckpt', '.json')
    if name.startswith(('.', '~')) or Path(name).suffix in known or Path(owner).is_dir():
        return False
    return bool(owner) and bool(rest) and '/' not in rest


def _shards(first: Path, get: Any) -> Iterator[Path]:
    """The files of weights; an index names them."""
    if first.suffix != '.json':
        yield first
        return
    index = _json(first)
    names = sorted({str(file) for file in dict(index.get('weight_map', {})).values()})
    if not names or any('/' in file or '\\' in file for file in names):
        raise FileError(f'{shown(first)} is no index of shards: its weight_map must name files of the same folder')
    yield from map(get, names)


def _configured(name: str, folder: Path, files: tuple[Path, ...]) -> Checkpoint:
    """The checkpoint as its configuration describes it."""
    path = folder / CONFIG
    if not path.is_file():
        return Checkpoint(name, files)
    config = _json(path)
    if 'architecture' in config:
        source = 'timm'
    elif 'model_type' in config:
        source = 'huggingface'
    else:
        return Checkpoint(name, files)
    names = [array for file in files for array in read_contents(file).specs]
    try:
        model, args = SOURCES[source].configuration(config, names)
    except ValueError as error:
        raise ValueError(f'{shown(path)}: {error}') from error
    if source == 'timm':
        images = of_pretrained_cfg(config['pretrained_cfg']) if 'pretrained_cfg' in config else None
    else:
        images = of_processor(_json(folder / PROCESSOR)) if (folder / PROCESSOR).is_file() else None
    return Checkpoint(name, files, model, args, source, images, _classes(config))


def _classes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes' names: timm's `label_names`, with descriptions where there are, or Hugging Face's `id2label`."""
    if names := config.get('label_names'):
        told = config.get('label_descriptions', {})
        return tuple(str(told.get(name, name)) for name in names)
    labels = config.get('id2label', {})
    names = [labels.get(str(i)) for i in range(len(labels))]
    return () if None in names or names[:1] == ['LABEL_0'] else tuple(map(str, names))


def _completed(found: Checkpoint, arrays: Mapping[str, np.ndarray]) -> Checkpoint:
    """Source and network by the names and shapes of the arrays, where nothing else said so.

    Raises:
      ValueError: they do not tell.
    """
    source, model, args = found.source, found.model, found.args
    if not source:
        source = recognised(arrays).partition(' ')[0]
        if not source:
            some, known = shown(repr(next(iter(arrays), ''))), ', '.join(SOURCES)
            raise ValueError(f'{found.name}: whose names are these, such as {some}? They look like none of {known}')
    if not model:
        try:
            model, args = SOURCES[source].configuration(arrays)
        except ValueError as error:
            total = sum(array.size for array in arrays.values())
            same = [name for name, entry in timm.published().items() if entry.get('parameters') == total]
            hint = f', such as {", ".join(same[:SHOWN])}' if same else ''
            others = [name for name, one in SOURCES.items() if name != source and one.matches(arrays)]
            hint += f'; or say whose file it is, source={" or ".join(others)}' if others else ''
            raise ValueError(f'{found.name}: {error}: name the network, model=...{hint}') from error
    return replace(found, model=model, args=args, source=source)


def _arguments(network: Backbone, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes that were given, by the network's own names.

    Raises:
      ValueError: it has no such argument.
    """
    given = {}
    for name, value in sizes.items():
        if value is None:
            continue
        own = [argument for argument in ARGUMENTS[name] if network.takes(argument)]
        if not own:
            raise ValueError(f'{name}={value!r}: {type(network).__name__} has no such argument')
        given[own[0]] = value
    return given


def _images_of(model: str) -> Mapping[str, Any] | None:
    """How images are prepared for one of timm's names with a tag."""
    base, _, tag = model.partition('.')
    entry = timm.published().get(base, {}).get('tags', {}).get(tag)
    return None if entry is None else of_pretrained_cfg(entry['images'])


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise FileError(f'{shown(path)} is no JSON: {error}') from error
    if not isinstance(found, dict):
        raise FileError(f'{shown(path)} must hold an object of JSON')
    return found


def _near(name: str) -> str:
    near = difflib.get_close_matches(name, [*list_models(), *list_models('*.*')], n=1)
    return f': did you mean {near[0]!r}?' if near else ''
