"""What a ticket is: arrays and agents in, numbers out. No files, no environments.

`paths` are the weights and inputs that still matter, `units` the activity of hidden units, `overlap` compares masks,
`stability` rankings, `interpolation` two agents.
"""
