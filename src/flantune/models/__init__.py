"""Model families: a packed batch to a loss, prompts and masks as they were proved; load and save.

load.py      folder, hub id, embedded base or scratch -> model; model -> folder
family.py    the protocol, the list, sums of the loss        masks.py    who may look at whom
encdec.py    T5 family        causal.py    decoder-only        check.py    packed = one at a time, proved on a model
atomic.py    folders that appear whole or not at all
"""
