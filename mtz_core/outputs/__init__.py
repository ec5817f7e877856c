"""What a network's outputs say: one class of several, yes or no, attributes, values; their errors, losses and pulls.

`types` needs no torch; every other module is one idea in tensors.
"""
