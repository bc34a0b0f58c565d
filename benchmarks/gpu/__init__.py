"""The benchmarks for a machine that has a GPU: `python -m benchmarks.gpu --out FOLDER`.

parts.py          runs each part in a process of its own, within its time
setup.py          what a part is given: sizes, and where its tables go
correctness.py    part 1: errors of the fast pieces; trials.py: whole trainings
ladder.py         part 2: what each rung brings; rungs.py: the rungs
peers.py          part 3: the stage `train`, beside others; gpt2.py: one of them
models.py         part 4: larger models, generation, evaluation
text.py           part 5: loss curves on a text
"""
