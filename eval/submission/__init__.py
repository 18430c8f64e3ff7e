"""Predictions that any program made: read, matched with a benchmark's samples, scored; and ours, written.

forms.py       the files and folders that hold predictions -> records by sample id
records.py     the records of one sample -> a `Prediction`; and back, for exporting
matching.py    ids of predictions against ids of a benchmark
scoring.py     predictions -> a run folder with rollouts, like any evaluation's
export.py      rollouts -> files of predictions
"""
