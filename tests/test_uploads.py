"""What users bring: every malformed file is refused with a message, nothing in it runs, and it stays in its folder."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import resource
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from mtz_core.data.tasks import read_task
from mtz_core.data.uploads import keep, upload_path
from mtz_core.errors import MTZError
from mtz_core.own.inspection import inspect_file
from mtz_core.own.networks import build_network
from mtz_core.spec import NetworkSpec, TransformSpec
from mtz_core.zoo.architectures import LeNet300, ResNet14

SEED = 20260131
Case = tuple[str, bytes]


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MTZ_UPLOADS", str(tmp_path / "server" / "uploads"))
    return tmp_path / "server" / "uploads"


def bring(data: bytes) -> nn.Module:
    """Do with a file of weights what the page does."""
    upload = keep(data)
    found = inspect_file(upload_path(upload))
    name = found.architectures[0] if found.architectures else found.closest
    return build_network(NetworkSpec(architecture=name, weights=upload, data="mnist")).module


class Bomb:
    """A pickle that would run a command."""

    target = ""

    def __init__(self, how: int = 0) -> None:
        self.how = how

    def __reduce__(self) -> tuple[Any, ...]:
        return ((os.mkdir, (self.target,)), (eval, (f"__import__('os').mkdir({self.target!r})",)))[self.how]


def good_state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {k: torch.randn(v.shape, generator=generator) for k, v in LeNet300(10).state_dict().items()}


def torch_bytes(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def rezipped(data: bytes, change: Callable[[str, bytes], tuple[str, bytes] | None], **options: Any) -> bytes:
    """An archive with its entries changed (`None` drops one)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", **options) as new:
        for entry in old.infolist():
            kept = change(entry.filename, old.read(entry))
            if kept is not None:
                new.writestr(*kept)
    return buffer.getvalue()


def exported_bytes(
    module: nn.Module, batch: int = 2, dynamic: bool = True, shape: tuple[int, ...] = (1, 28, 28)
) -> bytes:
    sizes = ({0: torch.export.Dim("batch")},) if dynamic else None
    program = torch.export.export(module.eval(), (torch.rand(batch, *shape),), dynamic_shapes=sizes)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def header_of(data: bytes) -> dict[str, Any]:
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length])


def with_header(data: bytes, header: Any) -> bytes:
    length = struct.unpack("<Q", data[:8])[0]
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


# Malformed safetensors


def mutated_headers() -> Iterator[Case]:
    """Bytes and bits of the header changed, unless it still says the same."""
    rng, data = random.Random(SEED), save(good_state())
    length = 8 + struct.unpack("<Q", data[:8])[0]
    count = 0
    while count < 60:
        changed = bytearray(data)
        at = rng.randrange(length)
        if count % 2:
            changed[at] ^= 1 << rng.randrange(8)
        else:
            changed[at] = rng.randrange(256)
        if not _says_the_same(bytes(changed), data):
            yield f"header byte {at} = {changed[at]}", bytes(changed)
            count += 1


def _says_the_same(changed: bytes, data: bytes) -> bool:
    if changed[:8] != data[:8]:
        return False
    try:
        return header_of(changed) == header_of(data)
    except (ValueError, RecursionError):
        return False


def truncated_files() -> Iterator[Case]:
    rng = random.Random(SEED)
    for kind, data in (("safetensors", save(good_state())), ("pt", torch_bytes(good_state()))):
        for _ in range(15):
            size = rng.randrange(1, len(data) - 1)
            yield f"{kind} cut after {size}", data[:size]
        yield f"{kind} with more behind it", data + b"\0" * 7


def hostile_headers() -> Iterator[Case]:
    data = save(good_state())
    header = header_of(data)
    body = len(data) - 8 - struct.unpack("<Q", data[:8])[0]
    for length in (0, 1, 2**31, 2**32, 2**40, 2**63 - 1, 2**64 - 1, len(data), len(data) - 7):
        yield f"declares a header of {length}", struct.pack("<Q", length) + data[8:]

    def entry(**fields: Any) -> dict[str, Any]:
        return {**header, "fc1.bias": {**header["fc1.bias"], **fields}}

    begin, end = header["fc1.bias"]["data_offsets"]
    for label, fields in {
        "overlap": {"data_offsets": [begin - 4, end - 4]},
        "overlap by much": {"data_offsets": [begin + 4096, end + 4096]},
        "outside": {"data_offsets": [body, body + end - begin]}, "backwards": {"data_offsets": [end, begin]},
        "negative": {"data_offsets": [-4, end]}, "floats": {"data_offsets": [float(begin), float(end)]},
        "huge offset": {"data_offsets": [2**63, 2**63 + 1200]}, "one offset": {"data_offsets": [begin]},
        "huge shape": {"shape": [10**9]}, "10^9 dims": {"shape": [10**9] * 6}, "many dims": {"shape": [1] * 10_000},
        "negative dim": {"shape": [-300]}, "text dim": {"shape": ["300"]}, "null dim": {"shape": [None]},
        "bool dim": {"shape": [True]}, "scalar": {"shape": []}, "two dims": {"shape": [300, 1]},
        "float16": {"dtype": "F16"}, "int64": {"dtype": "I64"}, "unknown type": {"dtype": "F7"},
        "no type": {"dtype": None}, "list type": {"dtype": ["F32"]}, "fp8": {"dtype": "F8_E4M3"},
        "integers": {"dtype": "I32"}, "bf16": {"dtype": "BF16"},
    }.items():  # fmt: skip
        yield label, with_header(data, entry(**fields))
    for name in ("../../x", "/etc/passwd", "fc1\0bias", "é" * 20, "x" * 100_000, "", "..", "fc1..bias", "\u202etxt"):
        renamed = {name if key == "fc1.bias" else key: value for key, value in header.items()}
        yield f"tensor called {name[:12]!r}", with_header(data, renamed)
    for label, text in {
        "deep JSON": b'{"a":' + b"[" * 100_000, "deep objects": b'{"a":' * 50_000, "list": b"[1, 2, 3]" + b" " * 9,
        "not JSON": b"{" + b"\xff" * 64, "empty": b"{}", "number": b"{" + b"9" * 200, "NaN": b'{"a": NaN}',
        "long integer": b'{"a": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 4]}}',
    }.items():  # fmt: skip
        yield f"header is {label}", with_header(data, text)
    yield "extra field", with_header(data, entry(more=1))
    yield "entry is a list", with_header(data, {**header, "fc1.bias": [1]})


def unfit_tensors() -> Iterator[Case]:
    good = good_state()
    for name in good:
        rest = {key: value for key, value in good.items() if key != name}
        yield f"lacks {name}", save(rest)
        yield f"{name} renamed", save({**rest, f"{name}_": good[name]})
        yield f"{name} of another shape", save({**rest, name: torch.zeros(*good[name].shape, 2)})
        for value in (float("nan"), float("inf")):
            wrong = good[name].clone().view(-1)
            wrong[len(wrong) // 2] = value
            yield f"{name} holds {value}", save({**good, name: wrong.view(good[name].shape)})
        yield f"{name} quantised", save({**good, name: good[name].to(torch.int8)})
    yield "an extra tensor", save({**good, "fc4.weight": torch.zeros(2)})
    yield "other names", save({f"layer{k}": value for k, value in enumerate(good.values())})
    yield "no classes", save({**good, "fc3.weight": torch.zeros(0, 100), "fc3.bias": torch.zeros(0)})


# Malformed torch files


def hostile_pickles() -> Iterator[Case]:
    good = good_state()
    for how in range(2):
        bomb = Bomb(how)
        for protocol in (0, 1, 2, 4, 5):
            yield f"pickle {protocol}, bomb {how}", pickle.dumps({"fc1.weight": bomb}, protocol=protocol)
        yield f"torch zip, bomb {how}", torch_bytes({**good, "fc1.bias": bomb})
        yield f"torch legacy, bomb {how}", torch_bytes({**good, "fc1.bias": bomb}, _use_new_zipfile_serialization=False)
        yield f"module, bomb {how}", torch_bytes({"state_dict": good, "optimizer": bomb})
    yield "a whole module", torch_bytes(LeNet300(10))
    for label, value in {
        "list": [1, 2], "number": 3, "none": None, "text": "weights", "empty": {}, "numbers by name": {"fc1.bias": 3},
        "numbers as names": {1: torch.ones(2)}, "nested": {"state_dict": {"state_dict": {"a": {}}}},
        "a tensor": torch.ones(3), "complex": {**good, "fc1.bias": torch.zeros(300, dtype=torch.complex64)},
        "sparse": {**good, "fc1.weight": good["fc1.weight"].to_sparse()},
        "a stride of 0": {**good, "fc1.weight": torch.zeros(1, 1).expand(300, 784)},
        "10^12 numbers for free": {**good, "fc1.weight": torch.zeros(1).expand(10**6, 10**6)},
        "a path as name": {"../../x": torch.ones(2)}, "a NUL as name": {"fc1\0": torch.ones(2)},
    }.items():  # fmt: skip
        yield f"torch.save of {label}", torch_bytes(value)


def mutated_pickles() -> Iterator[Case]:
    """One byte of the pickle changed, unless torch still reads a network from it."""
    rng, data = random.Random(SEED), torch_bytes(good_state())
    count = 0
    while count < 40:
        at, value = rng.random(), rng.randrange(256)

        def change(name: str, content: bytes, at: float = at, value: int = value) -> tuple[str, bytes]:
            if name.endswith("data.pkl"):
                k = int(at * len(content))
                content = content[:k] + bytes([value]) + content[k + 1 :]
            return name, content

        changed = rezipped(data, change)
        if not _still_a_network(changed):
            yield f"pickle byte at {at:.3f} = {value}", changed
            count += 1


def _still_a_network(data: bytes) -> bool:
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        LeNet300(10).load_state_dict(state)
    except Exception:
        return False
    return True


def hostile_archives() -> Iterator[Case]:
    data = torch_bytes(good_state())
    zeros = b"\0" * (64 * 2**20)

    def bomb(name: str, content: bytes) -> tuple[str, bytes]:
        return name, zeros if name.endswith("data/0") else content

    yield "zip bomb", rezipped(data, bomb, compression=zipfile.ZIP_DEFLATED)
    yield "compressed", rezipped(data, lambda n, c: (n, c), compression=zipfile.ZIP_DEFLATED)
    yield "bzip2", rezipped(data, lambda n, c: (n, c), compression=zipfile.ZIP_BZIP2)
    for name in ("../../x", "/etc/x", "a/../../../x", "..\\x", "x" * 5000):
        yield f"entry {name[:12]}", rezipped(data, lambda n, c, name=name: (name if n.endswith("data/1") else n, c))
    yield "no pickle", rezipped(data, lambda n, c: None if n.endswith("data.pkl") else (n, c))
    yield "no numbers", rezipped(data, lambda n, c: None if "/data/" in n else (n, c))
    yield "short numbers", rezipped(data, lambda n, c: (n, c[: len(c) // 2] if "/data/" in n else c))
    yield "TorchScript", rezipped(data, lambda n, c: (n.replace("data.pkl", "constants.pkl"), c))
    directory = data.rindex(b"PK\x01\x02")
    for at, label in ((20, "compressed size"), (24, "size"), (42, "offset")):
        lying = bytearray(data)
        lying[directory + at : directory + at + 4] = struct.pack("<I", 2**31)
        yield f"lies about its {label}", bytes(lying)
    yield "comment", data[:-2] + b"\x05\0hello"
    yield "encrypted", data[: directory + 8] + b"\x01" + data[directory + 9 :]


def other_files() -> Iterator[Case]:
    picture = io.BytesIO()
    np.save(picture, np.zeros((3, 28, 28), np.uint8))
    yield from {
        "png": b"\x89PNG\r\n\x1a\n" + b"x" * 60, "jpeg": b"\xff\xd8\xff\xe0" + b"x" * 60,
        "pdf": b"%PDF-1.7\n" + b"x" * 60,
        "html": b"<html>not found</html>", "gzip": b"\x1f\x8b" + b"x" * 60, "hdf5": b"\x89HDF\r\n\x1a\n" + b"x" * 60,
        "text": b"hello, I am no network", "empty": b"", "one byte": b"\x80", "zeros": b"\0" * 5000,
        "zip": b"PK\x03\x04 nonsense", "empty zip": b"PK\x05\x06" + b"\0" * 18, "npy": picture.getvalue(),
        "random": random.Random(SEED).randbytes(5000), "elf": b"\x7fELF" + b"\0" * 60, "gguf": b"GGUF" + b"\0" * 60,
    }.items()  # fmt: skip
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    yield "docx", buffer.getvalue()


# Malformed images


def bring_images(data: bytes) -> None:
    """Do with a file of images what the page does."""
    task = read_task(keep(data))
    task.calibration.images(np.arange(len(task.calibration)), TransformSpec())


def npz_bytes(compressed: bool = False, **arrays: Any) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def npy_bytes(header: str, body: bytes = b"") -> bytes:
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def hostile_arrays() -> Iterator[Case]:
    rng = random.Random(SEED)
    x, y = np.zeros((6, 28, 28), np.uint8), np.arange(6)
    for label, arrays in {
        "labels alone": {"labels": y}, "one label too few": {"images": x, "labels": y[:5]},
        "labels that are NaN": {"images": x, "labels": y * np.nan}, "negative labels": {"images": x, "labels": y - 3},
        "huge labels": {"images": x, "labels": y + 10**9},
        "two numbers for each of too few": {"images": x, "labels": np.zeros((5, 2), int)},
        "one image": {"images": x[:1]}, "no image": {"images": x[:0]}, "flat": {"images": x.reshape(6, -1)},
        "five axes": {"images": x[None, None]}, "four channels": {"images": np.zeros((6, 4, 9, 9), np.uint8)},
        "0 to 255 as numbers": {"images": x.astype(np.float32) + 200}, "NaN": {"images": x + np.nan},
        "integers": {"images": x.astype(np.int64)}, "objects": {"images": np.array([{}] * 6, object)},
        "text": {"images": np.array(["a"] * 6)}, "nothing": {}, "scalar": {"images": np.uint8(1)},
    }.items():  # fmt: skip
        yield label, npz_bytes(**arrays)
    good = npz_bytes(images=x, labels=y)
    for _ in range(8):
        size = rng.randrange(1, len(good) - 30)
        yield f"npz cut after {size}", good[:size]
    for shape in ("(1000000000, 1000000000)", "(10, -1, 28)", "(10**9,)", "'x'", "(" * 200, "(6, 28, 28, 1, 1, 1)"):
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
        yield f"npy of shape {shape[:20]}", npy_bytes(header, b"\0" * 100)
    for header in (
        "",
        "{}",
        "[1]",
        "__import__('os').mkdir('executed')",
        "{'descr': '|O', 'fortran_order': False, 'shape': (6,)}",
    ):
        yield f"npy with header {header[:20]}", npy_bytes(header, b"\0" * 100)
    yield "an npz that claims 3 GB", _claims(good, 3 * 2**30)
    yield "an npz that claims less", _claims(npz_bytes(compressed=True, images=x, labels=y), 200)


def _claims(data: bytes, size: int) -> bytes:
    directory = data.index(b"PK\x01\x02")
    return data[: directory + 24] + struct.pack("<I", size) + data[directory + 28 :]


# Malformed programs


def hostile_programs() -> Iterator[Case]:
    data = exported_bytes(ResNet14(10))

    def edited(where: str, change: Callable[[Any], Any]) -> bytes:
        def edit(name: str, content: bytes) -> tuple[str, bytes]:
            if not name.endswith(where):
                return name, content
            tree = json.loads(content)
            made = change(tree)
            return name, json.dumps(tree if made is None else made).encode()

        return rezipped(data, edit)

    def node(change: Callable[[Any], Any], target: str = "conv2d") -> bytes:
        def edit(tree: Any) -> None:
            change(next(n for n in tree["graph_module"]["graph"]["nodes"] if target in n["target"]))

        return edited("models/model.json", edit)

    def graph(change: Callable[[Any], Any]) -> bytes:
        return edited("models/model.json", lambda tree: change(tree["graph_module"]["graph"]))

    def weight(change: Callable[[Any], Any]) -> bytes:
        return edited("model_weights_config.json", lambda tree: change(tree["config"]["fc.weight"]))

    for target in (
        "os.system", "torch.ops.aten.system.default", "torch.ops.aten.from_file.default", "eval", "", 7, None,
        "__import__('os').system('true')", "torch.ops.higher_order.cond", "torch.ops.aten.linear.default; import os",
        "torch.ops.aten.empty.memory_format", "torch.ops.aten._cdist_forward.default",
    ):  # fmt: skip
        yield f"operation {target}", node(lambda n, target=target: n.update(target=target))
    for path in ("../../../../etc/passwd", "/etc/passwd", "weight_999", "", 7, None, "x" * 400, "weight_0\0"):
        yield f"weights at {str(path)[:20]!r}", weight(lambda w, path=path: w.update(path_name=path))
    for size in (-1, 10**9, 10**12, 2**63, 1.5, "10", None, True, [10]):
        yield f"size {size}", weight(lambda w, size=size: w["tensor_meta"]["sizes"][0].update(as_int=size))
        yield f"offset {size}", weight(lambda w, size=size: w["tensor_meta"]["storage_offset"].update(as_int=size))
    for stride in (-1, 10**9, 2**63):
        yield f"stride {stride}", weight(lambda w, s=stride: w["tensor_meta"]["strides"][0].update(as_int=s))
    yield (
        "strides of 0",
        weight(lambda w: w["tensor_meta"].update(sizes=[{"as_int": 10**6}] * 2, strides=[{"as_int": 0}] * 2)),
    )
    yield "pickled weights", weight(lambda w: w.update(use_pickle=True))
    yield "unknown type", weight(lambda w: w["tensor_meta"].update(dtype=99))
    for key in ("graph", "signature"):
        yield f"no {key}", edited("models/model.json", lambda tree, key=key: tree["graph_module"].pop(key) and None)
    for key in ("nodes", "tensor_values"):
        yield f"no {key}", graph(lambda g, key=key: g.pop(key) and None)
    yield "no nodes", graph(lambda g: g.update(nodes=[]))
    yield "nodes are text", graph(lambda g: g.update(nodes="abc"))
    yield "200,000 nodes", graph(lambda g: g.update(nodes=g["nodes"] * 5000))
    yield "reads nothing", node(lambda n: n["inputs"][0]["arg"]["as_tensor"].update(name="nobody"))
    yield "a graph as argument", node(lambda n: n["inputs"][0].update(arg={"as_graph": {"name": "g"}}))
    yield "code as argument", node(lambda n: n["inputs"][0].update(arg={"as_string": "__import__('os')"}))
    yield (
        "huge padding",
        node(lambda n: n["inputs"].append({"name": "padding", "arg": {"as_ints": [10**8] * 2}, "kind": 2})),
    )
    yield "more padding", node(lambda n: n["inputs"][1]["arg"].update(as_ints=[0, 10**7, 0, 10**7, 0, 16]), "pad")
    yield "training mode", node(lambda n: n["inputs"][5]["arg"].update(as_bool=True), "batch_norm")
    yield "a sum over images", node(lambda n: n["inputs"][1]["arg"].update(as_ints=[0, 1]), "mean")
    code = "__import__('os').mkdir('executed')"
    yield "code as size", graph(lambda g: g["tensor_values"]["x"]["sizes"][0]["as_expr"].update(expr_str=code))
    yield (
        "code as height",
        graph(lambda g: g["tensor_values"]["x"]["sizes"].__setitem__(2, {"as_expr": {"expr_str": code}})),
    )
    yield "huge images", graph(lambda g: g["tensor_values"]["x"]["sizes"][2].update(as_int=10**6))
    for kind in ("custom_obj", "token", "constant_input"):
        yield (
            f"takes a {kind}",
            edited(
                "models/model.json",
                lambda tree, kind=kind: tree["graph_module"]["signature"]["input_specs"].__setitem__(0, {kind: {}}),
            ),
        )
    yield (
        "parameter called ../x",
        edited(
            "models/model.json",
            lambda tree: tree["graph_module"]["signature"]["input_specs"][0]["parameter"].update(parameter_name="../x"),
        ),
    )
    yield (
        "parameter called forward",
        edited(
            "models/model.json",
            lambda tree: tree["graph_module"]["signature"]["input_specs"][0]["parameter"].update(
                parameter_name="forward.x"
            ),
        ),
    )
    yield "a list", edited("models/model.json", lambda tree: [tree])
    yield "bad JSON", rezipped(data, lambda n, c: (n, c[:-5] if n.endswith("model.json") else c))
    yield "deep JSON", rezipped(data, lambda n, c: (n, b"[" * 10**5 if n.endswith("model.json") else c))
    yield "compressed program", rezipped(data, lambda n, c: (n, c), compression=zipfile.ZIP_DEFLATED)
    yield "no weights", rezipped(data, lambda n, c: None if "weights_config" in n else (n, c))
    yield "NaN weights", rezipped(data, lambda n, c: (n, b"\xff" * len(c) if n.endswith("weight_0") else c))
    yield "short weights", rezipped(data, lambda n, c: (n, c[:-4] if n.endswith("weight_0") else c))
    yield "two programs", rezipped(data, lambda n, c: (n.replace("data/sample_inputs/model.pt", "models/b.json"), c))
    yield "old format", rezipped(data, lambda n, c: (n.rpartition("/")[2].replace("model.json", OLD), c))


OLD = "serialized_exported_program.json"
FAMILIES: dict[Callable[[], Iterator[Case]], int] = {
    mutated_headers: 60,
    truncated_files: 30,
    hostile_headers: 50,
    unfit_tensors: 30,
    hostile_pickles: 30,
    mutated_pickles: 40,
    hostile_archives: 15,
    other_files: 15,
    hostile_arrays: 25,
    hostile_programs: 60,
}
"""What is generated, and how many cases at least."""


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_every_malformed_upload_is_refused_with_a_message(
    family: Callable[[], Iterator[Case]], uploads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("not to be touched")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Bomb, "target", str(tmp_path / "executed"))
    bring(save(good_state()))
    cases = list(family())
    before, peak = tree(tmp_path), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wrong = []
    for label, data in cases:
        try:
            (bring_images if family is hostile_arrays else bring)(data)
            wrong.append(f"{label}: accepted")
        except MTZError as error:
            if len(str(error).strip()) < 30 or len(str(error)) > 1500:
                wrong.append(f"{label}: says {str(error)[:2000]!r}")
        except BaseException as error:  # whatever else comes is what this test is about
            wrong.append(f"{label}: {type(error).__name__}: {error}")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    assert not wrong, "\n".join(wrong)
    assert grown < 150 * 1024, f"{grown / 1024:.0f} MiB more memory"
    assert {path for path in tree(tmp_path) if not path.startswith("server/uploads/")} == {
        path for path in before if not path.startswith("server/uploads/")
    }
    assert all(len(path.name) == 64 for path in uploads.iterdir())
    assert len(cases) >= FAMILIES[family]


@pytest.mark.parametrize("family", [mutated_headers, truncated_files, unfit_tensors], ids=lambda f: f.__name__)
def test_the_same_files_come_from_the_same_seed(family: Callable[[], Iterator[Case]]) -> None:
    assert list(family()) == list(family())
    assert sum(FAMILIES.values()) >= 200


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
