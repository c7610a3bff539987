"""What the hub holds of a commit, and the folder of it in the hub's own cache."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from offaxis.checkpoints.hub.client import hub_client, refusal
from offaxis.checkpoints.hub.names import COMMIT, HubId
from offaxis.errors import require

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"

BESIDE = ("config.json", "adapter_config.json", "trainer_state.json")
"""What the measurement reads beside weights."""
TOKENIZER = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)
"""What a model needs beside them to read and write texts."""

_INDEX_BYTES = 1 << 25  # as much as a reader takes


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
    with hub_client(named) as api:
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
        raise refusal(
            named,
            f"{SINGLE}, its shards with an index, or {ADAPTER}",
            ", ".join(sorted(sizes)[:6]) or "an empty repository",
            "choose a revision with safetensors weights: nothing else is fetched",
        )
    beside = [name for name in (INDEX, *BESIDE, *TOKENIZER) if name in sizes]
    return Snapshot(named.repo, commit, {name: sizes[name] for name in names}, beside)


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
    chosen = [name for name in snapshot.beside if with_tokenizer or name not in TOKENIZER]
    with hub_client(named) as api:
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


def _commit_of(answered: str | None, named: HubId) -> str:
    """The commit that the hub has answered, which becomes the name of a folder."""
    if answered is None or COMMIT.fullmatch(answered) is None:
        raise refusal(named, "the 40 digits of a commit", repr(answered), "check HF_ENDPOINT")
    return answered


def _shards(api: "HfApi", named: HubId, sizes: Mapping[str, int]) -> Sequence[str]:
    """The shards of an index, each of which has to be a file of the repository's top folder."""
    if sizes[INDEX] > _INDEX_BYTES:
        raise refusal(
            named,
            f"an index of at most {_INDEX_BYTES >> 20} MB",
            f"{sizes[INDEX] / 1e6:.0f} MB",
            "do not trust this repository",
        )
    index = Path(api.hf_hub_download(named.repo, INDEX, revision=named.revision))
    names = _shard_names(index, named)
    for name in names:
        if "/" in name or not name.endswith(".safetensors") or name not in sizes:
            raise refusal(
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
        raise refusal(
            named,
            f'a JSON object with a "weight_map" in {INDEX}',
            f"{type(error).__name__}: {error}",
            "choose another revision",
        ) from error


def _check_room(snapshot: Snapshot, cache: Path) -> None:
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < snapshot.num_bytes:
        raise refusal(
            snapshot.id,
            f"room for {snapshot.num_bytes / 1e9:.1f} GB in {cache}",
            f"{free / 1e9:.1f} GB free",
            "free some space, or set HF_HOME to a larger disk",
        )
