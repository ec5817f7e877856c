"""A commented file of a sweep."""

from __future__ import annotations

EXAMPLE = """\
# Many runs from one file. Start it with:  python -m mtz_core sweep THIS-FILE.yaml
# Start it again after a break: what is finished is not computed again.

name: shares                # the tag of its runs. Left out: as the file is called

base:                       # the specification of a run: see `python -m mtz_core example-spec`
  networks:
    - parent: lenet300-mnist-0
    - parent: lenet300-mnist-1
  calibration: {images: 200}
  evaluation: {images: 500, harm: false}
  zip:
    retrain: {steps: 60}

over:                       # fields by their dotted names, each with a list of values: all combinations are tried
  zip.share: [0.5, 0.8, 1.0]
  zip.pairing: [optimal, greedy]

# A value is always the whole value of its field, so a field that is a list itself has a list of lists:
#   networks:
#     - [{parent: lenet300-mnist-0}, {parent: lenet300-mnist-1}]
#     - [{parent: lenet300-mnist-0}, {parent: lenet300-fashion-0}]
#   zip.alpha: [[1.0, 1.0], [1.0, 2.0]]
#   networks.0.data: [mnist, fashion]         # of the first network
#   zip.share.fc1: [0.5, 0.8]                 # of one layer, where the base says share as a mapping

# together:                 # fields of one entry vary in step, by lists of one length
#   - calibration.images: [100, 500]
#     zip.retrain.steps: [300, 60]
"""
