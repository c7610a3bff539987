"""The Hugging Face libraries: there, and kept off the network for this process only.

They read these variables when they are imported, so the package imports this module first. A user's
own choice stands.
"""

import os
from importlib.util import find_spec

from offaxis.checkpoints import hub  # noqa: F401 - it reads what the user chose, before this does
from offaxis.errors import UsageError

for _name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "TRANSFORMERS_OFFLINE"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# An extra: whoever only measures needs none of them.
_missing = [name for name in ("transformers", "accelerate") if find_spec(name) is None]
if _missing:
    raise UsageError(
        "training",
        expected="the packages of the extra `train`",
        found=f"no {' and no '.join(_missing)}",
        do="pip install 'offaxis[train]'",
    )
