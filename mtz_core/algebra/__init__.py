"""Tensors in, tensors out: Grams, the functional difference, merged weights, scales, ridges. It knows no network."""
