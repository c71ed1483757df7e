"""Model families: a packed batch to a loss, prompts and masks as they were proved; load and save.

load.py       folder, hub id, embedded base or scratch -> model; model -> folder
place.py      where a model is, what its folder says      plain_shape.py  what a decoder of Llama's make consists of
family.py     the protocol and the list                      encdec.py    T5 family
causal.py     decoders: causal, prefix-LM                    loss.py      sums of the loss, logits in pieces
attention.py  what is plugged into transformers' models      check.py     packed = one at a time, proved on a model
layout.py     where examples stand in a flat batch           masks.py     the same as dense masks; flat and back
bucketed.py   attention inside buckets of like length        flex.py      FlexAttention for GPUs
dropout.py    dropout by a hash                              adapt.py     LoRA, QLoRA
skeleton.py   a model's shape without its weights
"""
