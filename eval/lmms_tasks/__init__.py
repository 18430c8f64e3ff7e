"""Our benchmarks and metrics as tasks of lmms-eval, and our policies as a model of it.

    write.py      `prompter lmms-task`: a folder for `lmms-eval --include_path`
    task.py       what such a folder says: benchmark, protocol of asking, segmenter, metrics
    functions.py  what the task's YAML names: question, image, scoring, aggregation
    model.py      the model `prompter`, found by lmms-eval's entry point `lmms_eval.models`

Nothing here imports lmms-eval before lmms-eval itself asks for the model.
"""
