"""From a Prompt to packed rows on disk, and from rows to tensors.

    tokenizer.py   text <-> ids; training a tokenizer        card.py     what a build holds, counted
    encode.py      Prompt -> Encoded: prune, trim, EOS       shards.py   packed rows in memory-mapped Arrow files
    packing.py     Encoded -> Packed rows                    build.py    blocks -> shards + card, resumable
    collate.py     Packed -> tensors                         objectives.py   plain text -> Encoded (span corruption)

Import from the modules: some need torch or transformers, and most commands need neither.
"""
