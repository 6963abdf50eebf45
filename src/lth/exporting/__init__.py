"""`lth export`: write a trained policy, pruned or dense, as a standalone program.

`network` describes a policy as data and `fold` simplifies it. `c`, `onnx` and `numpy_code` generate programs, `programs` runs
them, and `check` compares them with the agent. `contract` describes a program for its users, and `write` writes the files.
"""
