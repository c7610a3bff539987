"""The headers of a model without its weights, laid out as the folder that it would be."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offaxis.checkpoints.hub.client import hub_client, refusal
from offaxis.checkpoints.hub.names import HubId
from offaxis.checkpoints.hub.snapshots import TOKENIZER, Snapshot


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
    with hub_client(snapshot.id) as api:
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
            if name not in TOKENIZER:
                kept = api.hf_hub_download(snapshot.repo, name, revision=snapshot.commit)
                shutil.copyfile(kept, folder / name)
    return folder


def _write_holes(path: Path, tensors: Mapping[str, Any], size: int, named: HubId) -> None:
    """A safetensors file that is as long as its header says and takes no room."""
    end = max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
    if end > size:
        raise refusal(
            named,
            f"a whole safetensors file: {path.name}",
            f"a header of {end} bytes of weights in a file of {size}",
            "choose another revision: this file is truncated",
        )
    header = json.dumps(tensors).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
