"""`python -m mtz_core.own.job`: what a page asks of a network that is brought, in a process of its own.

A request is one line of JSON on stdin. Answers are lines of JSON on stdout: `{"say": …}` on the way, then
`{"done": …}` or `{"error": …}`. Whatever a file does to this process, the page's own goes on.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mtz_core.data.uploads import upload_path
from mtz_core.errors import MTZError, SpecError
from mtz_core.own.registered import Registered
from mtz_core.spec import NetworkSpec, TransformSpec
from mtz_core.system import memory, threads


def answer(request: Mapping[str, Any]) -> Any:
    """Do what a request asks: `inspect` an upload, `add` a network, ask one for `samples`, or list the `models`."""
    match request:
        case {"do": "inspect", "upload": str(name)}:
            from mtz_core.own.inspection import inspect_file

            return asdict(inspect_file(upload_path(name), request.get("part")))
        case {"do": "add", "spec": dict(fields), "title": str(title)}:
            from mtz_core.own.adding import add_network

            return {"name": add_network(NetworkSpec(**fields), title, say).name}
        case {"do": "samples", "name": str(name)}:
            from mtz_core.own.adding import sample_network

            sample_network(name)
            return {}
        case {"do": "models"}:
            from mtz_core.own.registered import registered_models

            return {name: _told(found) for name, found in registered_models().items()}
        case _:
            raise SpecError("the request is not known")


def _told(found: Registered) -> dict[str, Any]:
    """What a page shows of a registered module: its data, and what it reads, where an example of that was given."""
    if found.example is None:
        return {"data": found.data, "transform": TransformSpec().model_dump(mode="json"), "whole": False}
    from mtz_core.own.inputs import shown_by

    reads = shown_by(found.example, found.module)
    if isinstance(reads, TransformSpec):
        return {"data": found.data, "transform": reads.model_dump(mode="json"), "whole": False}
    return {"data": found.data, "transform": None, "whole": reads.whole}


def say(text: str) -> None:
    """Tell the page what is being done."""
    print(json.dumps({"say": text}), flush=True)


def give_up(message: str) -> None:
    """Answer with an error and end this process, whatever it is doing."""
    os.write(sys.stdout.fileno(), f"\n{json.dumps({'error': message})}\n".encode())
    os._exit(0)


def main() -> None:
    """Answer the request on stdin; an error that can be put right is an answer too."""
    request = json.loads(sys.stdin.readline())
    try:
        memory.watch(memory.given(), give_up)
        threads.settle()
        done = answer(request)
        print(json.dumps({"done": done}), flush=True)
    except MTZError as error:
        print(json.dumps({"error": str(error)}), flush=True)
    except MemoryError:
        give_up(memory.excess_text(memory.run_limit()))


if __name__ == "__main__":
    main()
