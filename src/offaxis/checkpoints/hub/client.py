"""The hub's own client, and its failures as ours."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from offaxis.checkpoints.hub.names import HubId
from offaxis.errors import CheckpointError, OffaxisError, require

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# Training keeps its libraries off the network by these variables; here the user's own choice
# counts, so it is read before that.
IS_OFFLINE = any(
    os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
)


@contextmanager
def hub_client(named: HubId) -> Iterator["HfApi"]:
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
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, IS_OFFLINE
    try:
        yield HfApi()
    except OffaxisError:
        raise
    except Exception as error:  # the client's own, its transport's, and the system's
        kinds = (answers[kind] for kind in answers if isinstance(error, kind))
        said = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        unreached = (said, "check the network; or fetch it elsewhere and give its folder")
        found, do = next(kinds, unreached)
        raise refusal(named, f"an answer of {constants.ENDPOINT}", found, do) from error
    finally:
        constants.HF_HUB_OFFLINE = before


def refusal(named: HubId, expected: str, found: str, do: str) -> CheckpointError:
    """The error of a model of the hub."""
    return CheckpointError(str(named), expected=expected, found=found, do=do)
