"""Models of the hub in place of folders: `org/name@revision`, headers first, then what is needed.

A path that exists here always wins. A revision is resolved to its commit once; what is read after
that is of this commit. Nothing but safetensors and JSON files is ever fetched.
"""

from offaxis.checkpoints.hub.headers import write_headers
from offaxis.checkpoints.hub.names import HubId, name_in_cache
from offaxis.checkpoints.hub.snapshots import Snapshot, cached, fetch, look_up

__all__ = ["HubId", "Snapshot", "cached", "fetch", "look_up", "name_in_cache", "write_headers"]
