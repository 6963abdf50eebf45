"""Analysis of tickets: functions from arrays and agents to numbers, without files or environments.

`paths` finds effective weights and inputs, `units` measures the activity of hidden units, `overlap` compares masks, `stability`
compares rankings, and `interpolation` compares two agents.
"""
