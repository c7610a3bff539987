"""Models of the hub in place of folders: `org/name@revision`, headers first, then what is needed.

A path that exists here always wins. A revision is resolved to its commit once; what is read after
that is of this commit. Nothing but safetensors and JSON files is ever fetched.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from offaxis.errors import CheckpointError, OffaxisError, require

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"

_BESIDE = ("config.json", "adapter_config.json", "trainer_state.json")
"""What the measurement reads beside weights."""
_TOKENIZER = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)
"""What a model needs beside them to read and write texts."""

_INDEX_BYTES = 64 << 20

_ID = re.compile(r"(\w[\w.-]{0,95}/\w[\w.-]{0,95})@([\w./-]{1,200})", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")

# Training keeps its libraries off the network by these variables; here the user's own choice
# counts, so it is read before that.
_IS_OFFLINE = any(
    os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
)


class HubId(NamedTuple):
    """A repository and a revision of it: a branch, a tag or a commit."""

    repo: str
    revision: str

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}"

    @classmethod
    def read(cls, text: str) -> "HubId | None":
        """What a text of the form `org/name@revision` names; None for others."""
        match = _ID.fullmatch(text)
        return None if match is None or ".." in text else cls(match[1], match[2])

    @classmethod
    def of(cls, path: Path) -> "HubId | None":
        """What a path of that form names, where nothing is there."""
        return None if path.exists() else cls.read(path.as_posix())

    @property
    def is_commit(self) -> bool:
        """Whether the revision can never be another one."""
        return _COMMIT.fullmatch(self.revision) is not None


class Snapshot(NamedTuple):
    """What the hub holds of one commit.

    Attributes:
        repo: The repository.
        commit: The 40 digits of the commit.
        weights: The bytes of each safetensors file that makes the model.
        beside: The names of the JSON files that are there.
    """

    repo: str
    commit: str
    weights: Mapping[str, int]
    beside: Sequence[str]

    @property
    def id(self) -> HubId:
        """What names this commit for good."""
        return HubId(self.repo, self.commit)

    @property
    def num_bytes(self) -> int:
        """What its weights take."""
        return sum(self.weights.values())


def look_up(named: HubId) -> Snapshot:
    """Ask the hub what a revision is now, and which files make its model.

    Raises:
        CheckpointError: If it cannot be reached, does not have it, or has no safetensors weights.
        UsageError: If the extra `hub` is not installed.
    """
    with _hub(named) as api:
        info = api.model_info(named.repo, revision=named.revision, files_metadata=True)
        sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}
        commit = _commit_of(info.sha, named)
        if SINGLE in sizes:
            names: Sequence[str] = (SINGLE,)
        elif INDEX in sizes:
            names = _shards(api, HubId(named.repo, commit), sizes)
        else:
            names = (ADAPTER,) if ADAPTER in sizes else ()
    if not names:
        raise _refusal(
            named,
            f"{SINGLE}, its shards with an index, or {ADAPTER}",
            ", ".join(sorted(sizes)[:6]) or "an empty repository",
            "choose a revision with safetensors weights: nothing else is fetched",
        )
    beside = [name for name in (INDEX, *_BESIDE, *_TOKENIZER) if name in sizes]
    return Snapshot(named.repo, commit, {name: sizes[name] for name in names}, beside)


def write_headers(snapshot: Snapshot, cache: Path) -> Path:
    """Lay out a snapshot's folder with the headers of its weights and holes for their values.

    Names, shapes and dtypes can be read from it as from the model itself, so that a measurement is
    planned, and refused where it cannot be made, before the weights are fetched.

    Args:
        snapshot: Whose headers are read, by range requests.
        cache: The folder to lay it out in, as the hub's own cache does.

    Returns:
        The folder.

    Raises:
        CheckpointError: If a header cannot be read, or claims more bytes than its file has.
    """
    folder = cache / f"models--{snapshot.repo.replace('/', '--')}" / "snapshots" / snapshot.commit
    folder.mkdir(parents=True, exist_ok=True)
    with _hub(snapshot.id) as api:
        for name, size in snapshot.weights.items():
            found = api.parse_safetensors_file_metadata(
                snapshot.repo, name, revision=snapshot.commit
            )
            tensors = {
                key: {
                    "dtype": info.dtype,
                    "shape": list(info.shape),
                    "data_offsets": list(info.data_offsets),
                }
                for key, info in found.tensors.items()
            }
            _write_holes(folder / name, tensors, size, snapshot.id)
        for name in snapshot.beside:
            if name not in _TOKENIZER:
                kept = api.hf_hub_download(snapshot.repo, name, revision=snapshot.commit)
                shutil.copyfile(kept, folder / name)
    return folder


def fetch(named: HubId, *, with_tokenizer: bool = False) -> Path:
    """The folder of a model, fetched into the hub's own cache where it is not there yet.

    A commit that is there in full is not asked for again; offline (`HF_HUB_OFFLINE`) a branch is
    not known to be any commit, and refused.

    Raises:
        CheckpointError: As `look_up`, or if the disk has not room enough.
        UsageError: If the extra `hub` is not installed.
    """
    known = cached(named, with_tokenizer=with_tokenizer)
    if known is not None:
        return known
    snapshot = look_up(named)
    from huggingface_hub import constants  # noqa: PLC0415 - an extra

    cache = Path(constants.HF_HUB_CACHE)
    _check_room(snapshot, cache)
    chosen = [name for name in snapshot.beside if with_tokenizer or name not in _TOKENIZER]
    with _hub(named) as api:
        return Path(
            api.snapshot_download(
                snapshot.repo,
                revision=snapshot.commit,
                cache_dir=cache,
                allow_patterns=[*snapshot.weights, *chosen],
            )
        )


def cached(named: HubId, *, with_tokenizer: bool = False) -> Path | None:
    """The folder of a commit that is in the hub's cache in full; None for others.

    Raises:
        UsageError: If the extra `hub` is not installed.
    """
    require("huggingface_hub", "hub", str(named))
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - an extra

    def held(name: str) -> Path | None:
        path = try_to_load_from_cache(named.repo, name, revision=named.revision)
        return Path(path) if isinstance(path, str) else None

    if not named.is_commit or (with_tokenizer and held("tokenizer.json") is None):
        return None
    index = held(INDEX)
    if held(SINGLE) is None and index is not None:
        names = _shard_names(index, named)
        return index.parent if all("/" not in name and held(name) for name in names) else None
    whole = held(SINGLE) or held(ADAPTER)
    return None if whole is None else whole.parent


def name_in_cache(folder: Path) -> str | None:
    """The repository's name (without its owner) where a folder holds snapshots of the cache."""
    owner = folder.parent.name
    is_cache = folder.name == "snapshots" and owner.startswith("models--")
    return owner.rpartition("--")[2] if is_cache else None


def _commit_of(answered: str | None, named: HubId) -> str:
    """The commit that the hub has answered, which becomes the name of a folder."""
    if answered is None or _COMMIT.fullmatch(answered) is None:
        raise _refusal(named, "the 40 digits of a commit", repr(answered), "check HF_ENDPOINT")
    return answered


def _shards(api: "HfApi", named: HubId, sizes: Mapping[str, int]) -> Sequence[str]:
    """The shards of an index, each of which has to be a file of the repository's top folder."""
    if sizes[INDEX] > _INDEX_BYTES:
        raise _refusal(
            named,
            f"an index of at most {_INDEX_BYTES >> 20} MB",
            f"{sizes[INDEX] / 1e6:.0f} MB",
            "do not trust this repository",
        )
    index = Path(api.hf_hub_download(named.repo, INDEX, revision=named.revision))
    names = _shard_names(index, named)
    for name in names:
        if "/" in name or not name.endswith(".safetensors") or name not in sizes:
            raise _refusal(
                named,
                f"an index that names safetensors files of this repository: {INDEX}",
                repr(name),
                "choose another revision, or do not trust this repository",
            )
    return names


def _shard_names(index: Path, named: HubId) -> list[str]:
    try:
        mapping = json.loads(index.read_text("utf-8"))["weight_map"]
        return sorted({str(name) for name in mapping.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _refusal(
            named,
            f'a JSON object with a "weight_map" in {INDEX}',
            f"{type(error).__name__}: {error}",
            "choose another revision",
        ) from error


def _write_holes(path: Path, tensors: Mapping[str, Any], size: int, named: HubId) -> None:
    """A safetensors file that is as long as its header says and takes no room."""
    end = max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
    if end > size:
        raise _refusal(
            named,
            f"a whole safetensors file: {path.name}",
            f"a header of {end} bytes of weights in a file of {size}",
            "choose another revision: this file is truncated",
        )
    header = json.dumps(tensors).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)


def _check_room(snapshot: Snapshot, cache: Path) -> None:
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < snapshot.num_bytes:
        raise _refusal(
            snapshot.id,
            f"room for {snapshot.num_bytes / 1e9:.1f} GB in {cache}",
            f"{free / 1e9:.1f} GB free",
            "free some space, or set HF_HOME to a larger disk",
        )


@contextmanager
def _hub(named: HubId) -> Iterator["HfApi"]:
    """The hub's client, online unless the user said otherwise; its failures become ours.

    Raises:
        CheckpointError: Whatever the hub answers but what was asked for.
        UsageError: If the extra `hub` is not installed.
    """
    require("huggingface_hub", "hub", str(named))
    from huggingface_hub import HfApi, constants  # noqa: PLC0415 - an extra
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    answers = {
        OfflineModeIsEnabled: (
            "HF_HUB_OFFLINE, and no such commit in the cache",
            "unset it, or name a commit that was fetched before: org/name@COMMIT",
        ),
        GatedRepoError: ("a gated repository", "ask its owners for access, then `hf auth login`"),
        RepositoryNotFoundError: (
            "no such repository, or a private one",
            "check the name; for a private one `hf auth login`",
        ),
        RevisionNotFoundError: ("no such revision", "give a branch, a tag or a commit of it"),
    }
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, _IS_OFFLINE
    try:
        yield HfApi()
    except OffaxisError:
        raise
    except Exception as error:  # the client's own, its transport's, and the system's
        kinds = (answers[kind] for kind in answers if isinstance(error, kind))
        said = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        unreached = (said, "check the network; or fetch it elsewhere and give its folder")
        found, do = next(kinds, unreached)
        raise _refusal(named, f"an answer of {constants.ENDPOINT}", found, do) from error
    finally:
        constants.HF_HUB_OFFLINE = before


def _refusal(named: HubId, expected: str, found: str, do: str) -> CheckpointError:
    return CheckpointError(str(named), expected=expected, found=found, do=do)
