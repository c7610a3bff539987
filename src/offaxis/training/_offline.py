"""The Hugging Face libraries kept off the network, for this process only.

They read these variables when they are imported, so the package imports this module first. A user's
own choice stands.
"""

import os

for _name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "TRANSFORMERS_OFFLINE"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
