"""Images for calibration, evaluation and retraining: bundled ones, full data sets, and folders of your own.

`bundled` needs numpy only; `loading` and `sources` return torch tensors.
"""
