"""`lth export`: a trained policy, pruned or dense, as a program for other people's machines.

`network` is a policy as data, `fold` makes it smaller, `c`, `onnx` and `numpy_code` write it down, `programs` runs what was
written, `check` is the proof, `contract` what the program's user has to know, `write` the files.
"""
