"""Networks that the user brings: weights files, exported programs, torchvision's architectures, modules by name.

Whatever comes from outside is checked before it is believed: nothing in a file is executed, no declared size is
allocated before the file is known to hold that much, and every refusal says what is wrong and what to do.
"""
