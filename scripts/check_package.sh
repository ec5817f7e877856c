#!/usr/bin/env bash
# Builds the package, installs it into an empty environment outside the repository, and uses it there as a stranger would:
# `scripts/check_package.sh [PYTHON]`. It downloads what the package needs; nothing is left behind.
set -euo pipefail
python=${1:-python3}
repository=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
server=
trap 'test -z "$server" || kill "$server"; rm -rf "$folder"' EXIT
cd "$folder"
unset PYTHONPATH MTZ_RUNS MTZ_UPLOADS MTZ_DATA MTZ_MODELS
export HOME=$folder/home XDG_DATA_HOME=$folder/home/data
mkdir -p home elsewhere/.streamlit

say() { printf '\n== %s\n' "$*"; }

say "build the source archive, and the wheel from it"
"$python" -m venv builder
builder/bin/pip install --quiet build
builder/bin/python -m build --outdir dist "$repository" | tail -1
ls -sh1 dist

say "install the wheel into an empty environment"
"$python" -m venv fresh
fresh/bin/pip install --quiet dist/*.whl
fresh/bin/pip check
fresh/bin/python -c 'import sys, torch, streamlit; print("Python", sys.version.split()[0], "torch", torch.__version__, "streamlit", streamlit.__version__)'
find fresh -path '*/mtz_core/*' -not -name '*.pyc' | sort > installed
PATH=$folder/fresh/bin:$PATH
cd elsewhere
test "$(python -c 'import mtz_core; print(mtz_core.__file__)' | grep -c "^$folder/fresh/")" = 1

say "from Python"
python - <<'PYTHON'
from mtz_core import ZipSpec, load_data, load_parent, zip_networks

parents = [load_parent(name).module for name in ("lenet300-mnist-0", "lenet300-mnist-1")]
images, _ = load_data("mnist", "calibration")
test = load_data("mnist", "test")
result = zip_networks(parents, [images[:200], images[:200]], ZipSpec(share=0.8), evaluation=[test, test])
print(f"size {result.counts.versus_all:.1%} of both parents, errors {result.parent_errors} -> {result.errors}")
PYTHON

say "from the command line"
mtz --help | head -1
mtz parents | head -2
mtz example-spec > spec.yaml
sed -i 's/images: 500 /images: 100 /; s/steps: 300 /steps: 20 /' spec.yaml
mtz zip --quiet spec.yaml
mtz list

say "a worker that is started as the dashboard starts it"
python - <<'PYTHON'
from pathlib import Path

from mtz_core.runs.launch import start_worker
from mtz_core.runs.store import RunStore
from mtz_core.spec import load_run_spec

store = RunStore()
record = store.create(load_run_spec(Path("spec.yaml")))
code = start_worker(store, record.id).wait(timeout=300)
print(f"exit code {code}, run {store.get(record.id).status}, in {store.root}")
assert code == 0
PYTHON

say "the dashboard, started where another program's configuration lies"
printf '[server]\naddress = "0.0.0.0"\nenableXsrfProtection = false\n[theme]\nprimaryColor = "#ff0000"\n' > .streamlit/config.toml
port=$(python -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
mtz app --no-browser --port "$port" > app.log 2>&1 &
server=$!
for _ in $(seq 60); do
  curl --silent --fail "http://localhost:$port/_stcore/health" && break
  sleep 1
done || true
curl --silent --fail "http://localhost:$port/" | grep -c "<title>Streamlit</title>"
python - "$server" "$port" <<'PYTHON'
import sys

import psutil

process, port = psutil.Process(int(sys.argv[1])), int(sys.argv[2])
listening = {c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN and c.laddr.port == port}
print("\nlistens on", *sorted(listening))
assert listening <= {"127.0.0.1", "::1"}, "another program's configuration was heeded"
PYTHON
kill "$server" && wait "$server" || true
server=

say "every page, without a browser"
python - <<'PYTHON'
from streamlit.testing.v1 import AppTest

from mtz_core.system.paths import APP

for page in ("app.py", *(f"pages/{path.name}" for path in sorted((APP.parent / "pages").glob("*.py")))):
    app = AppTest.from_file(str(APP), default_timeout=120)
    if page != "app.py":
        app.switch_page(page)
    app.run()
    print(f"{page:24} {len(app.exception)} exceptions, {len(app.markdown)} texts, {len(app.caption)} captions")
    assert not app.exception, app.exception
PYTHON

say "what was written: nothing among the program's own files"
cd "$folder"
find fresh -path '*/mtz_core/*' -not -name '*.pyc' | sort | diff installed -
find home/data elsewhere -maxdepth 3 -not -path '*/.*' | sort

say "the package is fine"
