"""Evaluation of a model on a held-back split, with the things it should beat beside it. Start at `run.py`."""
