"""Looking at data: one example of the stream in full, and a collection as a local web page.

    views.py       what is shown, as typed JSON           stream.py      example N of a recipe: text, tokens, pack
    collection.py  tasks: facets, lengths, examples       search.py      text in all examples
    prompts.py, pieces.py, lengths.py                     a prompt's origins, token ids as text, histograms
    explorer.py    what the pages are answered from       server.py      the JSON API and the page
    serve.py       a port of this machine, until Ctrl-C   page/          HTML, CSS, JavaScript; nothing from elsewhere

Import from the modules: the server needs the extra `web`, the stream torch, and neither is wanted everywhere.
"""
