"""Training: packed batches to checkpoints.

    loop.py         train(): resume, step, log, save         checkpoint.py   whole folders or none
    adafactor.py    T5X's Adafactor                          metrics.py      metrics.jsonl and TensorBoard
    optimizers.py   from the recipe; the learning rate       precision.py    device, bf16 or fp32

Import from the modules: they need torch, and most commands do not.
"""
