"""Files of the Hugging Face hub: through `huggingface_hub`, with its cache, each checked before it is read."""

import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vit_flax.printing import shown
from vit_flax.weights.formats.common import FileError

# Bytes that are hashed at a time.
PART = 1 << 22


class HubError(FileError):
    """A file of the hub cannot be had, or is not what the hub says that it is."""


class NotInRepository(HubError):
    """The repository is there and this file is not in it."""


def download(
    repository: str, file: str, *, revision: str | None = None, cache: str | None = None, offline: bool = False
) -> Path:
    """One file of a repository, from the cache or the hub.

    What the cache holds is hashed each time and deleted where it is not what the hub announced. A cache without links
    (Windows) and a file that the hub announced without a hash cannot be checked.

    Args:
      repository: `owner/name`.
      file: its path there.
      revision: branch, tag or commit; the main branch if left out.
      cache: folder of the cache; huggingface_hub's own if left out.
      offline: take it from the cache alone, also if the hub has a newer one.

    Returns:
      Its path in the cache, in a folder with the name of the commit.

    Raises:
      HubError: one line that says what is wrong: no huggingface_hub, no network, no such repository or revision, no
        permission, an answer that is an error or broke off, or another content than announced.
      NotInRepository: there is no such file.
    """
    try:
        from huggingface_hub import constants, errors, hf_hub_download
    except ImportError as error:
        raise HubError(f"{repository}: names of the hub need huggingface_hub: pip install 'vit-linen[hub]'") from error
    where = f'{shown(repository)} on {constants.ENDPOINT}'
    at = f' at revision {shown(revision)}' if revision else ''
    try:
        with _quiet():
            path = hf_hub_download(repository, file, revision=revision, cache_dir=cache, local_files_only=offline)
    except errors.GatedRepoError as error:
        raise HubError(f'{where}: its owner asks you to accept conditions there first, then set HF_TOKEN') from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(f'{where}: there is no such repository, or it is private and HF_TOKEN is not yours') from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f'{where}: it has no revision {shown(revision)}') from error
    except errors.LocalEntryNotFoundError as error:  # which is an EntryNotFoundError, too
        without = 'offline' if offline or constants.HF_HUB_OFFLINE else f'not reachable ({_reason(error.__cause__)})'
        raise HubError(f'{where}: {without}, and {file}{at} is not in the cache') from error
    except errors.EntryNotFoundError as error:
        raise NotInRepository(f'{where}: it has no file {file}{at}') from error
    except errors.HFValidationError as error:
        raise HubError(f'{shown(repository)} is no name of a repository, which is owner/name') from error
    except Exception as error:  # of the network, in the classes of whichever library speaks to it, and of the disk
        raise HubError(f'{where}: {file} could not be downloaded: {_reason(error)}') from error
    _verify(Path(path), where)
    return Path(path)


def commit(path: Path) -> str:
    """The commit that a file of the cache belongs to."""
    found = re.search(r'[/\\]snapshots[/\\]([^/\\]+)[/\\]', str(path))
    return found[1] if found else ''


@contextmanager
def _quiet() -> Iterator[None]:
    """Without a warning for each try: the last one is an error, which says it."""
    logger = logging.getLogger('huggingface_hub')
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _verify(path: Path, where: str) -> None:
    """Compares the content with the hash that the hub announced, by which the cache names it.

    The hash is SHA-256 for large files, and git's own for others.
    """
    blob = path.resolve()
    if re.fullmatch('[0-9a-f]{64}', blob.name):
        found = hashlib.sha256()
    elif re.fullmatch('[0-9a-f]{40}', blob.name):
        found = hashlib.sha1(b'blob %d\0' % blob.stat().st_size, usedforsecurity=False)
    else:  # a mirror that announces none, or a system without links
        return
    with blob.open('rb') as opened:
        while part := opened.read(PART):
            found.update(part)
    if found.hexdigest() != blob.name:
        blob.unlink()
        path.unlink(missing_ok=True)
        raise HubError(
            f'{where}: {path.name} has another content than announced (hash {found.hexdigest()[:12]} instead of '
            f'{blob.name[:12]}): it was deleted, try again'
        )


def _reason(error: BaseException | None) -> str:
    """The first line of an error's text."""
    lines = str(error or '').strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
