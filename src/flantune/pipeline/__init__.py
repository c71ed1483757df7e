"""The stages of a run, in order: read, tokenizer, pretrain, build, train, evaluate, report.

Each reads only files that earlier stages left in the run's folder and can be stopped and run again. Import from the
modules: training and asking need torch, reading and building do not.
"""
