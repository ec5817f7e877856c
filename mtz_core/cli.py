"""The command line: zip networks described by a YAML file, and look after runs.

Exit codes: 0 done, 1 the run or the preflight failed, 2 the request makes no sense (one line per problem on
stderr), 130 cancelled.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from mtz_core.data.bundled import bundled_set, inputs_text
from mtz_core.errors import GraphError, MTZError, RunError, SpecError
from mtz_core.exports.kinds import EXPORTS
from mtz_core.own.registered import import_registered, register
from mtz_core.runs import labels
from mtz_core.runs.asked import absolute_paths, check_images, check_parents
from mtz_core.runs.dispatcher import capacity_of, keep_moving
from mtz_core.runs.example import example_text
from mtz_core.runs.place import Place, given_place
from mtz_core.runs.progress import ProgressLine, duration, percent, result, standing_text, table
from mtz_core.runs.queue import own_ticket
from mtz_core.runs.records import RunRecord, RunStatus, require_zipped
from mtz_core.runs.store import RunStore
from mtz_core.runs.turns import Standing
from mtz_core.spec import NetworkSpec, RunSpec, dump_run_spec, load_run_spec
from mtz_core.sweeps.command import add_sweep
from mtz_core.system import memory, threads
from mtz_core.system.paths import APP, runs_folder
from mtz_core.system.server import LOCAL, ServerSettings, server_settings, variable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; whatever the user can put right is one line or a few on stderr."""
    options = command_parser().parse_args(arguments)
    try:
        if options.command not in (_app, _worker):
            memory.watch(memory.given(), memory.end_process)
        if "threads" in options:  # a command that computes
            threads.settle(options.threads)
        if getattr(options, "models", None):
            register(options.models)
        if "threads" in options and options.command is not _worker:
            import_registered()
        code: int = options.command(options)
        return code
    except MTZError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has had enough; a second failure at exit would only be noise.
        sys.stdout = None
        return 0


def _zip(options: argparse.Namespace) -> int:
    spec = absolute_paths(load_run_spec(options.spec), options.spec.resolve().parent)
    if options.data_root is not None:
        spec = absolute_paths(spec.model_copy(update={"data_root": options.data_root}), Path.cwd())
    if options.download:
        spec = spec.model_copy(update={"download": True})
    store = _store(options)
    check_parents(spec)
    check_images(spec)
    if spec.rival is not None:
        from mtz_core.runs.rival_check import check_rival

        check_rival(spec.rival)
    if options.queue:
        return _execute_in_turn(options, store, spec)
    record = store.create(spec)
    return _execute(options, store, record.id, resume=False)


def _execute_in_turn(options: argparse.Namespace, store: RunStore, spec: RunSpec) -> int:
    """Execute a run in this process once the queue of the store gives it a place."""
    said = [""]

    def tell(standing: Standing) -> None:
        text = standing_text(standing)
        if not options.quiet and text != said[0]:
            print(text, file=sys.stderr, flush=True)
        said[0] = text

    record = store.create(spec, ticket=own_ticket("run", None))
    with Place(store, record.id) as place:
        place.hold(capacity_of(server_settings(), None), tell)
        return _execute(options, store, record.id, resume=False)


def _resume(options: argparse.Namespace) -> int:
    return _execute(options, _store(options), options.run, resume=True)


def _execute(options: argparse.Namespace, store: RunStore, run_id: str, *, resume: bool) -> int:
    from mtz_core.runs.worker import EXIT_CODES, execute

    store.get(run_id)  # an error if there is none
    print(run_id, flush=True)

    @cache
    def inputs() -> str:  # asked for with the first event: what a file holds is known then
        known = store.get(run_id).summary
        return inputs_text(known["tasks"], known.get("inputs", ()))

    line = None if options.quiet else ProgressLine(sys.stderr, inputs)
    try:
        announce = None if line is None else line.announce
        status = execute(store, run_id, resume=resume, listen=line, announce=announce, own_process=True)
    finally:
        if line is not None:
            line.close()
    record = store.get(run_id)
    if status is RunStatus.FINISHED:
        print(result(record))
        print(f"saved in {record.path} after {duration(record.summary['seconds'])}")
    else:
        print(record.message if status is RunStatus.CANCELLED else f"failed: {record.message}", file=sys.stderr)
    return EXIT_CODES[status]


def _worker(options: argparse.Namespace) -> int:
    from mtz_core.runs.pulse import leave
    from mtz_core.runs.worker import EXIT_CODES, execute

    def too_large(message: str) -> None:
        with suppress(RunError):
            _store(options).set_status(options.run, RunStatus.FAILED, message)
        leave(EXIT_CODES[RunStatus.FAILED])

    memory.watch(memory.given(), too_large)
    with suppress(SpecError):  # a run that needs the module fails by itself, with a message in the store
        import_registered()
    return EXIT_CODES[execute(_store(options), options.run, launcher=options.launcher, own_process=True)]


def _list(options: argparse.Namespace) -> int:
    print(table(_store(options).list(limit=options.limit, tags=labels.checked_tags(options.tag))))
    return 0


def _show(options: argparse.Namespace) -> int:
    record = _store(options).get(options.run)
    print(table([record]))
    if record.message:
        print(record.message)
    if used := record.summary.get("threads"):
        print(f"threads: {used}")
    for warning in record.summary.get("warnings") or ():
        print(f"warning: {warning}")
    if text := result(record):
        print(text)
    print(f"\n{dump_run_spec(record.spec).rstrip()}\n\nfolder: {record.path}")
    return 0


def _cancel(options: argparse.Namespace) -> int:
    _store(options).request_cancel(options.run)
    return 0


def _rename(options: argparse.Namespace) -> int:
    labels.label(_store(options), options.run, title=options.title)
    return 0


def _tag(options: argparse.Namespace) -> int:
    labels.label(_store(options), options.run, tags=options.tags)
    return 0


def _delete(options: argparse.Namespace) -> int:
    store = _store(options)
    for run in options.runs:
        store.delete(run)
    return 0


def _parents(options: argparse.Namespace) -> int:
    from mtz_core.zoo.catalog import catalog

    width = max(map(len, catalog()), default=0)
    task = max((len(info.task) for info in catalog().values()), default=0)
    for name, info in catalog().items():
        own = "" if bundled_set(info.task).bundled else "  images are your own"
        size, errors = f"{info.parameters:9,} parameters", f"{percent(info.test_error)} errors"
        print(f"{name:{width}}  {info.task:{task}}  {size}  {errors}{own}")
    return 0


def _preflight(options: argparse.Namespace) -> int:
    from mtz_core.checking.report import preflight
    from mtz_core.checking.text import report_data, report_text
    from mtz_core.own.networks import build_network, trial_inputs

    if options.spec is not None:
        spec = absolute_paths(load_run_spec(options.spec), options.spec.resolve().parent)
        check_parents(spec)
        specs = spec.networks
    else:
        specs = tuple(NetworkSpec(parent=name) for name in options.parents)
    networks = [build_network(network) for network in specs]
    try:
        found = preflight([n.module for n in networks], [trial_inputs(n, 2) for n in networks])
    except GraphError as error:
        print(error, file=sys.stderr)
        return 1
    report = report_data(found, [network.title for network in specs])
    print(json.dumps(report) if options.json else report_text(report))
    return 0 if found.green else 1


def _plan(options: argparse.Namespace) -> int:
    from mtz_core.runs.inputs import gather
    from mtz_core.zipping.forecast import plan

    spec = absolute_paths(load_run_spec(options.spec), options.spec.resolve().parent)
    if spec.zip.budget is None:
        raise SpecError("zip.budget: a plan needs one; write share: auto and, e.g., budget: {size: 1.5}")
    check_parents(spec)
    check_images(spec)
    with given_place(capacity_of(server_settings(), None)) as hold:
        inputs = gather(spec)
        for item in plan(inputs.networks, inputs.calibration, inputs.zipping(spec), inputs.evaluation):
            hold()
            _tell_plan(item, options.json)
    return 0


def _rivals(options: argparse.Namespace) -> int:
    from mtz_core.runs.rival_check import Offer, offers

    def told(offer: Offer) -> str:
        settings = ", ".join(f"{name}: {json.dumps(value)}" for name, value in offer.settings.items())
        able = "" if options.spec is None else f"\n  these networks: {offer.refusal or 'yes'}"
        return f"{offer.method}: {offer.text}\n  settings: {settings or 'none'}{able}"

    spec = None
    if options.spec is not None:
        spec = absolute_paths(load_run_spec(options.spec), options.spec.resolve().parent)
        check_parents(spec)
    found = offers(spec)
    print(json.dumps([vars(offer) for offer in found], default=str) if options.json else "\n".join(map(told, found)))
    return 0 if any(offer.refusal is None for offer in found) else 1


def _tell_plan(item: Any, as_json: bool) -> None:
    """Print how far a plan is, or the plan."""
    from mtz_core.budget.plan import choice_data, plan_data, plan_text
    from mtz_core.zipping.forecast import Measuring

    if not isinstance(item, Measuring):
        print(json.dumps({"plan": plan_data(item), **choice_data(item.choice)}) if as_json else plan_text(item))
    elif as_json:
        print(json.dumps({"group": item.group, "done": item.done, "total": item.total}), flush=True)
    elif sys.stderr.isatty():
        print(f"\r{item.done + 1} of {item.total}: {item.group}\x1b[K", end="", file=sys.stderr, flush=True)


def _extract(options: argparse.Namespace) -> int:
    record = _store(options).get(options.run)
    require_zipped(record, "a network can be taken out")
    single = EXPORTS.find(options.form).single
    if single and options.task is None:
        raise SpecError(f"--form {options.form} is of one task; say which: --task NUMBER or NAME")
    task = _task_number(record, options.task) if single else 0
    if not (record.path / "zipped.safetensors").exists():
        raise RunError(f"run {record.id} is {record.status} and has no network; only a finished one has")
    source = record.path / ("zipped.safetensors" if not single else f"extracted-{task}.safetensors")
    if options.form not in ("zipped", "weights"):
        from mtz_core.runs.outputs import exported

        source = exported(record.path, options.form, task)
    try:
        shutil.copyfile(source, options.out)
    except OSError as error:
        raise RunError(f"cannot write {options.out}: {error.strerror or error}") from error
    print(options.out)
    return 0


def _harm(options: argparse.Namespace) -> int:
    from mtz_core.runs.measure import estimate, measure

    if options.layer is None and (options.neurons is not None or options.dearest or options.estimate is not None):
        raise SpecError("--neurons, --dearest and --estimate are of one layer; say which: --layer NAME")
    if options.estimate is not None:
        for left, each in estimate(_store(options), options.run, options.layer, options.estimate or None):
            named = "; ".join(f"neurons {list(pair)}" for pair in each.neurons[options.layer])
            told = f"undoing is estimated to win back {each.total:.5f} ± {each.error:.5f} softened nats per input"
            print(f"{options.layer}, {named}: {told}, {left} left", flush=True)
        return 0
    neurons = None if options.neurons is None else [None if n == "-" else int(n) for n in options.neurons]
    for found in measure(_store(options), options.run, options.layer, neurons, options.dearest):
        what = ", ".join(found.layers) + ("" if found.neurons is None else f", neurons {list(found.neurons)}")
        won = ", ".join(f"{points:+.2f}" for points in found.points)
        print(f"{what}: undoing wins back {won} points, and {found.divergence:.5f} nats per input")
    return 0


def _origin(options: argparse.Namespace) -> int:
    from mtz_core.runs.tracing import trace_layers, trace_pair
    from mtz_core.zipping.findings import PairFindings

    store = _store(options)
    if options.layer is None:
        for item in trace_layers(store, options.run):
            said = item if isinstance(item, str) else (
                f"{item.layer}, network {item.task + 1}: CKA {item.cka:.4f}, effective rank {item.effective:.1f} of "
                f"{min(item.rows, item.size)}"
            )  # fmt: skip
            print(said, flush=True)
        return 0
    if options.neurons is None:
        raise SpecError("--layer is of two neurons; say which: --neurons I J, one of each network")
    (t, u), (i, j) = options.tasks, options.neurons
    for step in trace_pair(store, options.run, options.layer, (t, u), (i, j)):
        if not isinstance(step, PairFindings):
            print(step, flush=True)
            continue
        parts = step.parts.by_channel()
        most = ", ".join(f"{parts[k] / (step.difference or 1.0):.0%}" for k in (-abs(parts)).argsort()[:3])
        print(f"difference {step.difference:.4g}, of which the three largest inputs make {most}")
    return 0


def _app(options: argparse.Namespace) -> int:
    """Become Streamlit, which finds its configuration beside `app.py`, and ends the process itself.

    The queue moves from the beginning, whether somebody opens a page or not.
    """
    if options.paths is not None:
        os.environ["MTZ_PATHS"] = "on" if options.paths else "off"
    given = {name: getattr(options, name) for name in ServerSettings.model_fields}
    os.environ.update({variable(name): value for name, value in given.items() if value is not None})
    settings, address = server_settings(), options.address or os.environ.get("STREAMLIT_SERVER_ADDRESS", LOCAL[0])
    keep_moving(RunStore(), settings, address)
    flags = {"server.headless": str(options.no_browser).lower()}
    flags |= {"server.port": options.port, "server.address": options.address}
    wanted = [f"--{name}={value}" for name, value in flags.items() if value is not None]
    sys.argv = ["streamlit", "run", str(APP), *wanted]
    runpy.run_module("streamlit", run_name="__main__")
    return 0


def _example_spec(options: argparse.Namespace) -> int:
    print(example_text(), end="")
    return 0


def _neuron(text: str) -> str:
    """A neuron's number, or a dash."""
    if text != "-" and not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no neuron; write its number from 0 on, or - for none")
    return text


def _task_number(record: RunRecord, task: str) -> int:
    tasks: list[str] = record.summary["tasks"]
    if task.isascii() and task.isdigit() and int(task) < len(tasks):
        return int(task)
    if tasks.count(task) == 1:
        return tasks.index(task)
    listed = ", ".join(f"{number} ({name})" for number, name in enumerate(tasks))
    raise SpecError(f"task: {task!r} is not one task of run {record.id}; it has {listed}")


def _store(options: argparse.Namespace) -> RunStore:
    return RunStore(options.store)


def _name() -> str:
    """How this program was called: by its command, which an installed package has, or as a module."""
    return "mtz" if Path(sys.argv[0]).stem == "mtz" else "python -m mtz_core"


def command_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each sets `command`, the function that runs it."""
    parser = argparse.ArgumentParser(prog=_name(), description="Zip several networks into one.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    stored, models, json_output = (argparse.ArgumentParser(add_help=False) for _ in range(3))
    runs = str(runs_folder()).replace("%", "%%")
    stored.add_argument("--store", type=Path, help=f"folder of the runs (default: {runs})")
    models.add_argument("--models", metavar="MODULE:FACTORY", help="register the modules that FACTORY() returns")
    json_output.add_argument("--json", action="store_true", help="print lines of JSON")
    computing = argparse.ArgumentParser(add_help=False, parents=[models])
    computing.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads to compute with (default: $MTZ_THREADS, else the cores divided by $MTZ_JOBS, the jobs that may "
        "run at once)",
    )
    run = argparse.ArgumentParser(add_help=False, parents=[stored])
    run.add_argument("run", metavar="RUN", help="the run's identifier")

    command = commands.add_parser("app", parents=[models], help="open the dashboard in the browser; Ctrl-C ends it")
    command.add_argument("--port", type=int, help="where it listens (default: 8501, or the next that is free)")
    command.add_argument("--no-browser", action="store_true", help="only listen, and print the address")
    command.add_argument(
        "--paths",
        action=argparse.BooleanOptionalAction,
        help="whether pages take paths of files on this computer (default: $MTZ_PATHS, on or off, else only from a "
        "browser on this computer)",
    )
    command.add_argument("--address", help="address to listen on (default: localhost; 0.0.0.0 for everybody)")
    for name, field in ServerSettings.model_fields.items():
        told = f"{field.description} (${variable(name)})".replace("%", "%%")
        command.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=told)
    command.set_defaults(command=_app)
    _add_zipping(commands, [stored, computing], [run, computing])
    _add_looking(commands, [computing, json_output])
    add_sweep(commands, [stored, computing, json_output])
    command = commands.add_parser("list", parents=[stored], help="list runs, newest first")
    command.add_argument("--limit", type=int, default=50)
    command.add_argument("--tag", action="append", default=[], metavar="TAG", help="only runs with it; may be repeated")
    command.set_defaults(command=_list)
    commands.add_parser("show", parents=[run], help="show a run").set_defaults(command=_show)
    commands.add_parser("cancel", parents=[run], help="stop a run").set_defaults(command=_cancel)
    _add_keeping(commands, run, stored)
    commands.add_parser("parents", help="list the bundled networks").set_defaults(command=_parents)
    command = commands.add_parser("extract", parents=[run], help="write the network of one task, or all, to a file")
    command.add_argument("--task", help="number (from 0) or name of the task")
    command.add_argument("--form", choices=EXPORTS.names, default="weights", help=EXPORTS.told())
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    command.set_defaults(command=_extract)
    _add_inside(commands, run)
    commands.add_parser("example-spec", help="print a commented YAML file").set_defaults(command=_example_spec)
    return parser


Parsers = Sequence[argparse.ArgumentParser]


def _add_zipping(commands: Any, new: Parsers, known: Parsers) -> None:
    """Commands that execute runs, new ones or known ones."""
    command = commands.add_parser("zip", parents=new, help="zip networks that a YAML file describes")
    command.add_argument("spec", type=Path, metavar="SPEC.yaml")
    command.add_argument("--data-root", type=Path, metavar="DIR", help="full data sets (default: $MTZ_DATA)")
    command.add_argument("--download", action="store_true", help="let torchvision fetch its data sets into DIR")
    command.add_argument(
        "--queue", action="store_true", help="wait for a place in the queue instead of starting at once"
    )
    command.add_argument("--quiet", action="store_true", help="show no progress")
    command.set_defaults(command=_zip)
    command = commands.add_parser("resume", parents=known, help="continue a lost, cancelled or failed run")
    command.add_argument("--quiet", action="store_true", help="show no progress")
    command.set_defaults(command=_resume)
    command = commands.add_parser("worker", parents=known)  # the dashboard starts it; no help text hides it
    command.add_argument("--launcher", type=int)
    command.set_defaults(command=_worker)


def _add_keeping(commands: Any, run: argparse.ArgumentParser, stored: argparse.ArgumentParser) -> None:
    """Commands that change what is kept of runs."""
    command = commands.add_parser("rename", parents=[run], help="give a run another title")
    command.add_argument("title", metavar="TITLE", help='"" lets it be called by what it zips')
    command.set_defaults(command=_rename)
    command = commands.add_parser("tag", parents=[run], help="replace a run's tags")
    command.add_argument("tags", nargs="*", metavar="TAG")
    command.set_defaults(command=_tag)
    command = commands.add_parser("delete", parents=[stored], help="delete runs and their files")
    command.add_argument("runs", nargs="+", metavar="RUN")
    command.set_defaults(command=_delete)


def _add_inside(commands: Any, run: argparse.ArgumentParser) -> None:
    """Commands that look into finished runs."""
    command = commands.add_parser("harm", parents=[run], help="measure what undoing merges of a run would win back")
    command.add_argument("--layer", help="this layer's alone (default: every layer's)")
    command.add_argument("--neurons", nargs="+", type=_neuron, metavar="N", help="one of each network, - for none")
    command.add_argument("--dearest", type=int, default=0, metavar="N", help="the N pairs of the layer that cost most")
    told = "estimate the harm of every pair of the layer without labels, or of the N that cost most"
    command.add_argument("--estimate", nargs="?", const=0, type=int, metavar="N", help=told)
    command.set_defaults(command=_harm)
    command = commands.add_parser("origin", parents=[run], help="find where the difference of two neurons comes from")
    command.add_argument("--layer", help="their layer (default: compare all layers of parents and zipped network)")
    command.add_argument("--neurons", nargs=2, type=int, metavar=("I", "J"), help="one of each of two networks")
    command.add_argument(
        "--tasks", nargs=2, type=int, default=(0, 1), metavar=("T", "U"), help="which two, from 0 (default: 0 1)"
    )
    command.set_defaults(command=_origin)


def _add_looking(commands: Any, common: Parsers) -> None:
    """Commands that say what a zip would be."""
    told = "say what of given networks can be zipped, and check it on them"
    command = commands.add_parser("preflight", parents=common, help=told)
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("spec", type=Path, nargs="?", metavar="SPEC.yaml")
    which.add_argument("--parents", nargs="+", metavar="NAME", help="bundled networks instead of a YAML file")
    command.set_defaults(command=_preflight)
    told = "list the rival methods, and say whether they can merge given networks"
    command = commands.add_parser("rivals", parents=common, help=told)
    command.add_argument("spec", type=Path, nargs="?", metavar="SPEC.yaml")
    command.set_defaults(command=_rivals)
    told = "choose all shares under the budget of a YAML file, and zip nothing"
    command = commands.add_parser("plan", parents=common, help=told)
    command.add_argument("spec", type=Path, metavar="SPEC.yaml")
    command.set_defaults(command=_plan)
