"""flantune: instruction finetuning, from task collections to an evaluated model."""

import os

__version__ = "0.1.0"

# On a CPU, bf16 products keep a compiled kernel for every shape they ever met, two caches of 1,024 each; packed batches
# hardly ever repeat a shape, and the caches grow by some megabytes a step. Read by torch when it first multiplies.
for _name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_name, "64")
