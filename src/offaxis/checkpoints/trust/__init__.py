"""Checks that come before a stranger's bytes are given to a parser, and what is read without one.

Nothing of a checkpoint is executed, nothing outside its folder is read, and what a file claims of
its sizes is held against the bytes it has.
"""

from offaxis.checkpoints.trust.dcp import read_dcp_metadata
from offaxis.checkpoints.trust.documents import read_object
from offaxis.checkpoints.trust.headers import read_header
from offaxis.checkpoints.trust.names import require_names
from offaxis.checkpoints.trust.pickles import ALLOW, load_payload, load_pickle, require_pickle
from offaxis.checkpoints.trust.places import own_file, own_folder

__all__ = [
    "ALLOW",
    "load_payload",
    "load_pickle",
    "own_file",
    "own_folder",
    "read_dcp_metadata",
    "read_header",
    "read_object",
    "require_names",
    "require_pickle",
]
