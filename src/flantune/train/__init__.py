"""Training: packed batches to checkpoints.

    loop.py         train(): resume, step, log, save, measure     step.py         one step, however it is split
    parallel.py     ranks; weights in shards                      checkpoint.py   whole folders or none
    adafactor.py    T5X's Adafactor, on shards too                selection.py    which checkpoint becomes the model
    optimizers.py   from the recipe; the learning rate            precision.py    device, bf16 or fp32
    metrics.py      metrics.jsonl                                 watch.py        TensorBoard and others
    cost.py         parameters, FLOPs, memory beforehand          hardware.py     named devices and their peaks

Import from the modules: they need torch, and most commands do not.
"""
