"""`python -m mtz_core.own.job`: what a page asks of a network that is brought, in a process of its own.

A request is one line of JSON on stdin. Answers are lines of JSON on stdout: `{"say": …}` on the way, then
`{"done": …}` or `{"error": …}`. Whatever a file does to this process, the page's own goes on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mtz_core.data.uploads import upload_path
from mtz_core.errors import MTZError, SpecError
from mtz_core.spec import NetworkSpec
from mtz_core.system import threads


def answer(request: Mapping[str, Any]) -> Any:
    """Do what a request asks: `inspect` an upload, `add` a network, or list the `models` that are registered."""
    match request:
        case {"do": "inspect", "upload": str(name)}:
            from mtz_core.own.inspection import inspect_file

            return asdict(inspect_file(upload_path(name), request.get("part")))
        case {"do": "add", "spec": dict(fields), "title": str(title)}:
            from mtz_core.own.adding import add_network

            return {"name": add_network(NetworkSpec(**fields), title, say).name}
        case {"do": "models"}:
            from mtz_core.own.registered import registered_models

            return {name: found.data for name, found in registered_models().items()}
        case _:
            raise SpecError("the request is not known")


def say(text: str) -> None:
    """Tell the page what is being done."""
    print(json.dumps({"say": text}), flush=True)


def main() -> None:
    """Answer the request on stdin; an error that can be put right is an answer too."""
    request = json.loads(sys.stdin.readline())
    try:
        threads.settle()
        done = answer(request)
        print(json.dumps({"done": done}), flush=True)
    except MTZError as error:
        print(json.dumps({"error": str(error)}), flush=True)


if __name__ == "__main__":
    main()
