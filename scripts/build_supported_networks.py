"""Write `docs/supported-networks.md`: what of torchvision's and timm's networks can be zipped, with the self-checks.

    python scripts/build_supported_networks.py [--timm] [--examine-only] [NAME …]

Every network gets random weights, with normalisation statistics as if it had been trained. It is examined at its own
input size, then zipped with itself and with a differently seeded twin, fully shared, on a few small random images.
With names, prints their rows and leaves the page alone. Takes about three quarters of an hour in one thread; needs no
download. With `--timm` it is the networks of timm, if that is installed (`pip install timm==1.0.31`), and their table:
these are examined only, in about ten minutes.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mtz_core import ZipSpec, preflight, zip_networks
from mtz_core.data.torchvision import import_torchvision
from mtz_core.structure.joint import joined
from mtz_core.structure.networks import NetworkStructure
from mtz_core.structure.trunks import trunks

NAMES = (
    *("vgg11_bn", "vgg16", "alexnet", "resnet18", "resnet50", "wide_resnet50_2", "mobilenet_v2"),
    *("mobilenet_v3_small", "efficientnet_b0", "densenet121", "squeezenet1_1", "shufflenet_v2_x1_0"),
    *("regnet_y_400mf", "convnext_tiny", "googlenet", "vit_b_16"),
)
TIMM = (
    *("resnet18", "resnet26t", "resnetv2_50", "tf_efficientnet_lite0", "efficientnet_lite0", "efficientnet_b0"),
    *("tf_mobilenetv3_small_minimal_100", "mobilenetv3_small_050", "mobilenetv4_conv_small", "lcnet_050", "tinynet_e"),
    *("ghostnet_050", "mobileone_s0", "repvgg_a0", "repghostnet_050", "convnext_atto", "convnextv2_atto"),
    *("edgenext_xx_small", "mobilevit_xxs", "mobilevitv2_050", "fastvit_t8", "deit_tiny_patch16_224"),
    *("deit_tiny_distilled_patch16_224", "vit_tiny_patch16_224", "eca_nfnet_l0", "nf_regnet_b0", "mixer_s32_224"),
    *("poolformer_s12", "regnety_002", "efficientvit_b0", "levit_128s", "resnest14d", "skresnet18", "starnet_s1"),
    *("densenet121", "mixnet_s", "coat_lite_tiny", "hrnet_w18_small", "inception_v3", "swin_tiny_patch4_window7_224"),
    *("seresnet18", "repvit_m0_9", "darknet53"),
)
PAGE = Path(__file__).resolve().parents[1] / "docs" / "supported-networks.md"
CLASSES, IMAGES, SMALL = 10, 16, 64

HEADING = """# Supported networks

What `mtz_core.preflight` says of torchvision's networks, and what happens when they are zipped. Written by
`scripts/build_supported_networks.py`; weights are random, with normalisation statistics as after training.

- *Shareable*: part of the hidden layers' parameters that two networks of this architecture can share. Task heads are
  never shared and don't count.
- *Permuted*: largest change of the outputs, relative to the largest output, when the channels of every group are
  permuted.
- *Computed once*: multiplications that two such networks' answers to one image take at least, relative to one network,
  if all layers that they can have in common are computed once (2.00×: none; normalisation that stays private ends it).
- *With itself*: how much the outputs change after zipping the network with itself, fully shared, and the size of the
  result relative to one network ({classes} classes, images of {small} × {small}).
- *Twin*: size after zipping with a twin of another seed, and how far the extracted network is from the zipped one, in
  single precision (a merge of so few samples can be badly conditioned).
- –: examined only.

| network | nodes | layers | channel groups | shareable | permuted | computed once | with itself | twin |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


TIMM_HEADING = """## timm

What `mtz_core.preflight` says of networks of timm {version}. Written by `scripts/build_supported_networks.py --timm`,
which needs timm; nothing else here does. Weights are random, with normalisation statistics, biases and scales that are,
too, where timm would start them at zero or one. *Itself*: largest change of the outputs, relative to the largest
output, once the network is zipped with itself, fully shared.

| network | layers | channel groups | shareable | permuted | itself | what stays private |
| --- | --- | --- | --- | --- | --- | --- |
"""


def build(name: str, seed: int, size: int, classes: int) -> nn.Module:
    """The architecture with random weights; a few batches set its normalisation."""
    models: Any = import_torchvision().models
    torch.manual_seed(seed)
    more: dict[str, Any] = {"init_weights": False} if name == "googlenet" else {}
    if name.startswith("vit"):
        more = {"image_size": size}
    network: nn.Module = models.get_model(name, weights=None, num_classes=classes, **more)
    network.train()
    with torch.no_grad():
        for k in range(3):
            network(images(8, size, 100 + k))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                nn.init.uniform_(module.weight, 0.7, 1.3)
                nn.init.normal_(module.bias, 0.0, 0.1)
        if name.startswith("vit"):  # torchvision starts it at zero
            nn.init.normal_(network.heads.head.weight, 0.0, 0.1)  # type: ignore[union-attr,arg-type]  # attributes by name
    return network.eval()


def images(count: int, size: int, seed: int) -> Tensor:
    """Smooth random images (count, 3, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    return F.interpolate(torch.randn(count, 3, 16, 16, generator=generator), size=size, mode="bilinear")


def furthest(answer: Callable[[Tensor], Tensor], expected: Tensor, x: Tensor) -> float:
    """Largest difference of two outputs, relative to the largest of the second."""
    with torch.no_grad():
        return float((answer(x) - expected).abs().max() / expected.abs().max())


def row(name: str, zipping: bool = True) -> tuple[str, list[str]]:
    """One line of the table, and reasons for what can't be shared."""
    report = preflight(build(name, 0, 224, 1000), images(2, 224, 0))
    facts = report.networks[0]
    itself, twin = zipped(name) if zipping else ("–", "–")
    cells = [
        f"`{name}`{'' if report.green else ' (**not green**)'}",
        str(facts.nodes),
        str(facts.layers),
        str(facts.groups),
        f"{100 * facts.share:.1f} %",
        f"{report.checks[0].deviation:.0e}",
        f"{at_least(facts.structure):.2f}×",
        itself,
        twin,
    ]
    hidden = facts.sharable + sum(facts.private.values())
    reasons = [f"`{name}`: {100 * size / hidden:.2f} % — {why}." for why, size in facts.private.items()]
    return f"| {' | '.join(cells)} |", reasons


def at_least(structure: NetworkStructure) -> float:
    """Multiplications of two networks' answers to one image with the longest trunk, relative to one network's."""
    possible = trunks(joined([structure, structure]))
    most = possible[-1].multiplications if possible else 2 * structure.multiplications
    return most / structure.multiplications


def zipped(name: str) -> tuple[str, str]:
    """How a zip with itself, and one with a twin, turn out."""
    first, second = build(name, 0, SMALL, CLASSES), build(name, 1, SMALL, CLASSES)
    x, test = images(IMAGES, SMALL, 1), images(4, SMALL, 2)
    spec = ZipSpec(positions=4, batch_size=IMAGES)
    with torch.no_grad():
        expected = first(test)
    same = zip_networks([first, copy.deepcopy(first)], [x, x], spec)
    network, size = same.network, same.counts.versus_smallest
    itself = max(furthest(partial(network, task=t), expected, test) for t in (0, 1))
    del same, network  # large networks fill the memory
    twins = zip_networks([first, second], [x, x], spec)
    with torch.no_grad():
        answer = twins.network(test, task=1)
    apart = furthest(twins.network.extract(1), answer, test)
    return f"{itself:.0e}, {size:.3f}×", f"{twins.counts.versus_smallest:.3f}×, {apart:.0e}"


def timm_row(name: str, create: Callable[..., nn.Module]) -> str:
    """One line of timm's table."""
    torch.manual_seed(0)
    network = create(name, pretrained=False, num_classes=CLASSES).eval()
    with torch.no_grad():
        for module in network.modules():
            if getattr(module, "running_mean", None) is not None:
                cast(Tensor, module.running_mean).normal_(std=0.1)
                cast(Tensor, module.running_var).uniform_(0.8, 1.2)
        for parameter in network.parameters():
            if parameter.ndim < 2 or not parameter.any():
                parameter.add_(0.1 * torch.randn(parameter.shape))
    size = cast(Any, network).default_cfg["input_size"]
    report = preflight(network, torch.randn(2, *size))
    facts = report.networks[0]
    hidden = facts.sharable + sum(facts.private.values())
    most = sorted(facts.private.items(), key=lambda item: -item[1])
    cells = [
        f"`{name}`{'' if report.green else ' (**not green**)'}",
        str(facts.layers),
        str(facts.groups),
        f"{100 * facts.share:.1f} %",
        *(f"{check.deviation:.0e}" for check in report.checks),
        "; ".join(f"{100 * size / hidden:.2f} % {why}" for why, size in most[:3]) or "nothing",
    ]
    return f"| {' | '.join(cells)} |"


def write_timm(names: Sequence[str]) -> None:
    """Write timm's table behind the rest of the page, or print the rows of the named networks."""
    import_torchvision()
    timm = import_module("timm")
    lines = []
    for name in names or TIMM:
        lines.append(timm_row(name, timm.create_model))
        print(lines[-1], flush=True)
    if not names:
        before = PAGE.read_text(encoding="utf-8").partition("\n## timm\n")[0].rstrip("\n")
        table = TIMM_HEADING.format(version=timm.__version__) + "\n".join(lines)
        PAGE.write_text(f"{before}\n\n{table}\n", encoding="utf-8")


def main() -> None:
    """Write the page, or print the rows of the named networks."""
    warnings.simplefilter("ignore")
    lines, reasons = [], []
    zipping, names = "--examine-only" not in sys.argv, [name for name in sys.argv[1:] if not name.startswith("-")]
    if "--timm" in sys.argv:
        write_timm(names)
        return
    for name in names or NAMES:
        line, why = row(name, zipping)
        print(line, *why, sep="\n", flush=True)
        lines.append(line)
        reasons += why
    if not names:
        text = HEADING.format(classes=CLASSES, small=SMALL) + "\n".join(lines) + "\n\n## What stays private\n\n"
        text += "\n".join(f"- {reason}" for reason in reasons) + "\n"
        behind = PAGE.read_text(encoding="utf-8").partition("\n## timm\n")
        PAGE.write_text(text + "".join(behind[1:]), encoding="utf-8")


if __name__ == "__main__":
    main()
