"""timm's names of networks; its names of weights are in `vit_flax.weights.sources.timm`."""

import json
from functools import cache
from pathlib import Path
from typing import Any


@cache
def published() -> dict[str, dict[str, Any]]:
    """What timm publishes of plain vision transformers, by name: written by `parity_tests/timm_tags.py`.

    `module` is timm's; `stem` the model file, `args` the arguments of ours and `parameters` their number; `tags` are
    the pretrained weights of this network, each with the arguments that differ (None for the default), and how its
    images are prepared. A network that is not built has a `reason` instead.
    """
    table: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name('timm_tags.json').read_text())
    return table


@cache
def sizes(stem: str | None = None) -> dict[str, dict[str, Any]]:
    """Arguments of each network that is built, of one model file or of all."""
    built = {name: entry for name, entry in published().items() if 'args' in entry}
    return {name: entry['args'] for name, entry in built.items() if stem in (None, entry['stem'])}


def tagged(name: str) -> dict[str, Any] | None:
    """Arguments of a name with a tag, such as `vit_base_patch16_224.augreg_in21k`; None if there is no such."""
    base, _, tag = name.partition('.')
    entry = published().get(base, {})
    if 'args' not in entry or tag not in entry['tags']:
        return None
    args = {**entry['args'], **{key: value for key, value in entry['tags'][tag].items() if key != 'images'}}
    return {key: value for key, value in args.items() if value is not None}
