"""The command line. No logic: it reads the config, sets the threads, and calls the stages.

Imports nothing that loads JAX or NumPy until the number of threads is set.
"""

import argparse
import contextlib
import errno
import os
import re
import shlex
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import Config, parse_config, read_tree
from .errors import InputError, TrainingError, UnwritableError
from .text import LastingOutput, close_output, make_streams_forgiving, plain, say
from .threads import library_threads, set_threads

if TYPE_CHECKING:
    from .experiment.tidy import TidyRow
    from .reporting.display import PlainConsole
    from .reporting.views import TableRow

INTERRUPTED = 130
OUTPUT_CLOSED = 141
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
INTERRUPT_AGAIN_AFTER = 0.05  # seconds
ISSUES = "https://github.com/lth-rl/lth/issues"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `lth`; returns the exit status, as `guard` describes it."""
    parser = _parser()
    # Settings may stand before and after options, which argparse does not see to where there are subcommands.
    arguments, rest = parser.parse_known_args(argv)
    if unknown := [word for word in rest if word.startswith("-")]:
        parser.error(f"unknown option {unknown[0]!r}{_meant(unknown[0])}")
    if "config" not in arguments:
        arguments = parser.parse_args(argv)
    elif rest:
        arguments.config = [*arguments.config, *rest]
    if arguments.version:
        return guard(_version)
    if arguments.command is None:
        parser.print_help()
        return 2
    return guard(lambda: arguments.call(arguments), debug=arguments.debug)


def _meant(option: str) -> str:
    """Return how a setting is written that was given as an option; empty if there is no such setting."""
    key, _, value = option.lstrip("-").partition("=")
    key = key.replace("-", "_")
    known = key.partition(".")[0] in Config.model_fields
    return f"; settings are written without dashes: {key}={value or 'VALUE'}" if known else ""


def _parser() -> argparse.ArgumentParser:
    """Return the parser of all commands. `call` of what it parses is the command's function, which gets the arguments."""
    parser = argparse.ArgumentParser(
        prog="lth", description="Find and test lottery tickets in deep reinforcement learning."
    )
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    grid = argparse.ArgumentParser(add_help=False)
    grid.add_argument(
        "config",
        nargs="*",
        metavar="[CONFIG] [KEY=VALUE ...]",
        help="a config file, or an output directory for the settings of its last run (default: config.yaml)",
    )

    def command(name: str, call: Callable[[argparse.Namespace], int], **about: Any) -> argparse.ArgumentParser:
        found = commands.add_parser(name, **about)
        found.set_defaults(call=call)
        return found

    run = command(
        "run",
        _run,
        parents=[grid],
        help="train dense agents, make masks, train tickets, print the table",
        description="Train dense agents, make masks, train tickets, and print the results. Finished runs are skipped.",
        epilog="lth run config.yaml training.env_steps=20000 'pruning.sparsity=[0.8, 0.95]'. docs/configuration.md has every key.",
    )
    run.add_argument(
        "--dry-run", action="store_true", help="print what the runs cost in time, steps and disk, and stop"
    )
    run.add_argument("--list", action="store_true", help="with --dry-run: list every run")
    run.add_argument(
        "--only",
        metavar="PATTERN",
        help="only runs whose path matches PATTERN (shell glob) and their dependencies; prints no table",
    )
    status = command("status", _status, parents=[grid], help="show the progress and the results of a grid")
    status.add_argument("--paths", action="store_true", help="list every run with its folder instead of the results")
    command(
        "table",
        _table,
        parents=[grid],
        help="print the results table of the last run again",
        description="Print the results table of the last `lth run`, or of one that is still running, without running anything.",
    )
    study = command(
        "plan",
        _plan,
        parents=[grid],
        help="say how many seeds, hours and disk a study takes",
        description="Print how many seeds it takes to decide an effect, and what they cost. Nothing is run.",
    )
    study.add_argument(
        "--effect", type=float, default=0.2, metavar="D", help="difference to find, as a share of dense (default: 0.2)"
    )
    study.add_argument("--power", type=float, default=0.8, metavar="P", help="probability of finding it (default: 0.8)")
    study.add_argument(
        "--pilot", type=Path, metavar="DIR", help="take the spread over seeds from this output directory's runs"
    )
    report = command(
        "report",
        _report,
        parents=[grid],
        help="write the results as one HTML page",
        description="Write report.html, which needs nothing else, and tidy.csv, which its numbers come from, to the output_dir.",
    )
    report.add_argument("--open", action="store_true", help="show it in the browser")
    init = command(
        "init",
        _init,
        help="write a config to start from",
        description="Write the quickstart's config with every other key as a comment, each with its meaning and its default.",
    )
    init.add_argument("file", nargs="?", type=Path, default=Path("config.yaml"), help="where to (default: config.yaml)")
    clean = command("clean", _clean, parents=[grid], help="remove what a finished grid no longer needs")
    clean.add_argument("--dry-run", action="store_true", help="list the files, and stop")
    show = command("show", _show, help="print a run's results, how it was made, and its settings")
    show.add_argument("run", type=Path, help="a run's directory")
    show.add_argument(
        "--all", action="store_true", help="add all settings, timings, attempts, failures and files, as YAML"
    )
    evaluate = command("eval", _evaluate, help="evaluate a finished run, and film it")
    evaluate.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the directories of runs")
    evaluate.add_argument(
        "--episodes",
        type=int,
        metavar="N",
        help="how many episodes (default: as many as the run's last evaluation has)",
    )
    evaluate.add_argument(
        "--video", type=Path, metavar="FILE", help="film the first episode, several runs side by side: .mp4, or .gif"
    )
    ship = command(
        "export",
        _export,
        help="write a run's policy as C, ONNX and NumPy",
        description="Write the policy of a finished run as programs that need no lth: from an observation to an action, both in "
        "the environment's units. Each program is compared with the agent before anything is written. A folder holds one policy: "
        "other formats of it that are there stay, and the export of another policy is replaced.",
    )
    ship.add_argument("run", type=Path, help="a run's directory")
    ship.add_argument(
        "--to",
        default="all",
        choices=("c", "onnx", "numpy", "all"),
        help="what to write (default: all that is possible here)",
    )
    ship.add_argument("--out", type=Path, metavar="DIR", help="where to (default: export in the run's directory)")
    ship.add_argument("--quantize", choices=("int8",), help="store the weights of the C program in 8 bits")
    ship.add_argument(
        "--episodes",
        type=int,
        default=50,
        metavar="N",
        help="episodes that each program is evaluated on (default: 50; 0: none)",
    )
    command(
        "flash",
        _flash,
        parents=[grid],
        help="compare return with bytes of flash",
        description="Write flash.csv and flash.png: the return of each finished run's policy against its size as a C program, with "
        "weights of 32 and of 8 bits.",
    )
    for one in (show, evaluate, ship):
        one.add_argument(
            "--algorithm",
            metavar="MODULE:CLASS",
            help="the run's algorithm, if it is your own: it is imported",
        )
    for one in commands.choices.values():
        one.add_argument("--debug", action="store_true", help="show the traceback of whatever goes wrong")
    return parser


def guard(command: Callable[[], int], debug: bool = False) -> int:
    """Call a command; turn whatever goes wrong into a sentence and an exit status. No exception passes.

    The status is 2 for a user's mistake or a full disk, 1 for a failure (lth's own faults too, whose traceback is kept in a file),
    141 where the reader of the output has gone, as of a program that SIGPIPE ended, and 130 for Ctrl-C.
    """
    warnings.showwarning = _show_warning
    sys.unraisablehook = _interrupt_again
    make_streams_forgiving()
    try:
        _check_working_directory()
        status = command()
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        # Ctrl-C ends the reader of a pipe too, as in `lth run 2>&1 | tee log`.
        with contextlib.suppress(OSError):
            say("\nInterrupted. Finished runs are kept; run the same command to resume.", sys.stderr)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        # Not by way of the interpreter's end: JAX's does not survive an interruption while it starts or compiles.
        os._exit(INTERRUPTED)
    except BrokenPipeError:
        close_output()
        return OUTPUT_CLOSED
    except Exception as error:
        if debug:
            say(traceback.format_exc(), sys.stderr)
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            close_output()  # the interpreter's last flush would fail again
            error = UnwritableError(
                f"the disk that the output or a temporary file goes to is full ({error.strerror}). Finished runs are kept. "
                "Free some space, and run the same command again"
            )
        if isinstance(error, InputError | TrainingError):
            with contextlib.suppress(OSError):  # as where standard error goes to the same disk
                say(f"error: {error}", sys.stderr)
            return 2 if isinstance(error, InputError) else 1
        where = "shown above" if debug else f"in {_keep_traceback()}"
        with contextlib.suppress(OSError):
            say(
                f"error: internal error: {type(error).__name__}: {error}. Finished runs are kept. The traceback is {where}; "
                f"please report it at {ISSUES}",
                sys.stderr,
            )
        return 1


def _version() -> int:
    from . import __version__

    say(f"lth {__version__}")
    return 0


def _check_working_directory() -> None:
    try:
        Path.cwd()
    except OSError:
        raise InputError("the working directory no longer exists; change to one that does: cd DIRECTORY") from None


def _keep_traceback() -> str:
    try:
        handle, name = tempfile.mkstemp(prefix="lth-traceback-", suffix=".txt")
        with os.fdopen(handle, "w", errors="backslashreplace") as file:
            file.write(plain(traceback.format_exc()))
    except OSError:
        return "lost, because no file could be written (--debug shows it)"
    return name


def _interrupt_again(unraisable: Any) -> None:
    """Interrupt the main thread once more where Ctrl-C was lost.

    Python drops an exception that is raised inside a callback of the garbage collector, of a weak reference or of C code. JAX
    has such callbacks, and roughly one Ctrl-C in six falls into one of them.
    """
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        # Not a thread: starting one waits, and the interruption could fall into this hook, where it would be dropped too.
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, INTERRUPT_AGAIN_AFTER)
    else:
        sys.__unraisablehook__(unraisable)


def _show_warning(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
    del file, line
    place = "" if category is UserWarning else f" ({category.__name__}, {Path(filename).name}:{lineno})"
    uncolored = re.sub(r"\x1b\[[0-9;]*m", "", str(message))  # Gymnasium colors its warnings
    say(f"warning: {uncolored}{place}", sys.stderr)


def parse_words(words: Sequence[str]) -> Config:
    """Read `[config.yaml or output directory] [key=value ...]`, and set the threads before anything is imported that loads JAX."""
    paths = [word for word in words if "=" not in word or os.path.exists(word)]  # noqa: PTH110  (however long the word is)
    if len(paths) > 1:
        raise InputError(
            f"one config file at a time, please: {' '.join(paths)}. (A setting is key=value, as in training.env_steps=5000.)"
        )
    tree, source = read_tree(Path(paths[0]) if paths else None, [word for word in words if word not in paths])
    # Before modules of the user's own are imported, which may load JAX.
    training = tree.get("training")
    wanted = training if isinstance(training, dict) and training.get("backend") == "dense" else {}
    threads = wanted.get("threads", 1)
    set_threads(threads if type(threads) is int and threads > 0 else 1)
    config = parse_config(tree, source)
    set_threads(library_threads(config))
    return config


def _run(arguments: argparse.Namespace) -> int:
    output = LastingOutput()
    config, console = parse_words(arguments.config), _console(None if arguments.dry_run else output)
    from . import api
    from .experiment.tasks import recorded_spaces
    from .reporting import terminal
    from .reporting.display import GridDisplay, run_name

    if arguments.dry_run:
        plan, estimate = api.dry_run(config, arguments.only)
        for note in plan.notes:
            console.say(f"Note: {note}")
        console.say(terminal.planned_summary(estimate, config.workers))
        if config.batch_size:
            console.say(api.batch_summary(config, plan, estimate))
        console.print(terminal.planned_table(estimate, arguments.list))
        if arguments.only is None:
            console.say(terminal.growth(plan.config, estimate.runs))
        return 0
    if arguments.list:
        raise InputError("--list lists what --dry-run plans; give both, or neither")
    plan, how_computed = api.prepare(config)
    console.say(how_computed)
    for note in plan.notes:
        console.say(f"Note: {note}")
    part = plan.only(arguments.only) if arguments.only is not None else plan
    with GridDisplay(console, part, recorded_spaces(plan.root)) as display:
        results = api.run_plan(plan, arguments.only, display)
    kept = sum(outcome.status == "kept" for outcome in results.outcomes)
    if kept:
        console.say(f"{kept} of {len(results.outcomes)} runs were finished before and are kept.")
    if results.table:
        _print_table(console, results.table, results.tidy, config)
        console.say(f"Saved in {config.output_dir}: {', '.join(path.name for path in results.files)}")
        console.say(f"Next: `lth report {shlex.quote(str(plan.root))}` writes {plan.root / 'report.html'}")
    for outcome in results.failed:
        say(f"{outcome.status}: {run_name(outcome.spec)}: {outcome.message}", sys.stderr)
    if output.closed_early:
        return OUTPUT_CLOSED
    return 1 if results.failed else 0


def _print_table(
    console: "PlainConsole", table: "list[TableRow]", tidy: "list[TidyRow]", config: Config | None = None
) -> None:
    from . import api
    from .reporting import terminal
    from .reporting.views import unstable_masks

    console.print(terminal.results_table(table))
    for line in terminal.conclusion(api.conclude(config, tidy)) if config else ():
        console.say(line)
    if unstable := unstable_masks(tidy):
        console.say(terminal.unstable_note(unstable), style="yellow")


def _console(output: Any = None) -> "PlainConsole":
    from .reporting.display import PlainConsole

    console = PlainConsole(file=output)
    return console if console.is_terminal else PlainConsole(file=output, width=120)


def _status(arguments: argparse.Namespace) -> int:
    config, console = parse_words(arguments.config), _console()
    from . import api
    from .experiment.status import states
    from .experiment.tasks import recorded_spaces
    from .reporting.progress import results_matrix, status_summary, status_table

    plan = api.planned_runs(config)
    found = states(plan)
    if arguments.paths:
        for state in found:
            console.say(f"{state.state:<12} {config.output_dir / state.spec.path}")
    console.say(status_summary(plan, found, recorded_spaces(plan.root)))
    if not arguments.paths:
        if any(state.state in ("running", "failed", "interrupted") for state in found):
            console.print(status_table(found))
        for line in results_matrix(plan, found, console.width):
            console.say(line)
    return 0


def _table(arguments: argparse.Namespace) -> int:
    words, console = arguments.config, _console()
    config = None
    if len(words) == 1 and os.path.isdir(words[0]):  # noqa: PTH112  (however long the word is)
        # The table needs no settings; the conclusion below it does.
        folder = Path(words[0])
        with contextlib.suppress(InputError):
            config = parse_words(words)
    else:
        config = parse_words(words)
        folder = config.output_dir
    from . import api
    from .reporting.views import run_rows, summarize

    tidy = api.last_table(folder)
    rows = run_rows(tidy)
    if not rows:
        raise InputError(f"no ticket is finished in {folder} yet; `lth status` shows how far its runs are")
    _print_table(console, summarize(rows), tidy, config)
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    config, console = parse_words(arguments.config), _console()
    from . import api
    from .reporting import terminal
    from .reporting.display import duration

    found = api.plan_study(config, arguments.effect, arguments.power, arguments.pilot)
    console.print(terminal.needed_table(found.needed, arguments.power))
    for line in terminal.assumed_notes(found.needed):
        console.say(line)
    count = len(config.seeds)
    total = [n.seeds for n in found.needed if n.seeds]
    for seeds in sorted({count, *total}):
        time = duration(found.seconds_a_seed * seeds / config.workers)
        console.say(
            f"{seeds} seeds{' (this config)' * (seeds == count)}: about {time} with workers={config.workers}, "
            f"{found.megabytes_a_seed * seeds:,.0f} MB of disk."
        )
    console.say(f"Times are estimated {found.source}.")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    config = parse_words(arguments.config)
    from . import api

    page = api.report(config)
    say(f"Saved: {page} ({page.stat().st_size / 1e6:.1f} MB), {page.parent / 'tidy.csv'}")
    if arguments.open:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
    return 0


def _clean(arguments: argparse.Namespace) -> int:
    config = parse_words(arguments.config)
    from . import api
    from .experiment.status import clean

    files, megabytes = clean(api.planned_runs(config), arguments.dry_run)
    if arguments.dry_run:
        for file in files:
            say(file)
    say(f"{'would remove' if arguments.dry_run else 'removed'} {len(files)} files, {megabytes:.1f} MB")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    _import_algorithm(arguments)
    from .reporting.show import describe

    say(describe(arguments.run, _console().width, arguments.all))
    return 0


def _init(arguments: argparse.Namespace) -> int:
    from .starting import write_template

    write_template(arguments.file)
    named = "" if arguments.file == Path("config.yaml") else f" {shlex.quote(str(arguments.file))}"
    say(f"Saved: {arguments.file}. Next: `lth run{named} --dry-run` prints what it costs, `lth run{named}` runs it.")
    return 0


def _import_algorithm(arguments: argparse.Namespace) -> None:
    if arguments.algorithm:
        from .algorithms.architecture import config_class

        config_class(arguments.algorithm, load=True)


def _evaluate(arguments: argparse.Namespace) -> int:
    if arguments.episodes is not None and arguments.episodes < 1:
        raise InputError(f"--episodes is {arguments.episodes}, and has to be at least 1")
    from .evaluation import check_video_file, evaluate_run, film_runs, run_threads

    if arguments.video:
        check_video_file(arguments.video)
    set_threads(run_threads(arguments.runs[0]))
    _import_algorithm(arguments)
    for run in arguments.runs:
        result = evaluate_run(run, arguments.episodes)
        say(result if len(arguments.runs) == 1 else f"{run.name}: {result}")
    if arguments.video:
        film_runs(arguments.runs, arguments.video)
        say(f"film: {arguments.video}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from .evaluation import run_threads

    set_threads(run_threads(arguments.run))
    _import_algorithm(arguments)
    from .exporting.write import export

    made = export(arguments.run, arguments.out, arguments.to, arguments.quantize, arguments.episodes)
    say(made)
    say(f"Saved in {made.folder}: {len(made.files)} files; policy.json describes them.")
    return 0


def _flash(arguments: argparse.Namespace) -> int:
    config = parse_words(arguments.config)
    from . import api
    from .exporting.flash import measure, save_table
    from .reporting.figures import save_flash

    plan = api.planned_runs(config)
    rows = measure(plan, told=say)
    for path in (save_table(plan.root, rows), save_flash(plan.root, rows)):
        say(f"Saved: {path}")
    return 0


def script(description: str, arguments: dict[str, str] | None = None) -> tuple[Config, dict[str, str | None]]:
    """Read the command line of one of scripts/: `--config FILE`, `key=value ...`, and the script's options (name: help).

    Sets the threads, so call it before anything is imported that loads JAX. A mistake ends the process with status 2.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, help="a config file (default: config.yaml)")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="settings to override")
    for name, text in (arguments or {}).items():
        parser.add_argument(f"--{name}", help=text)
    parsed = parser.parse_intermixed_args()
    found: list[Config] = []

    def read() -> int:
        config = parse_words([*([str(parsed.config)] if parsed.config else []), *parsed.words])
        from .experiment.backend import recorded, resolve_backend

        config, _ = resolve_backend(recorded(config) if config.batch_size else config)
        set_threads(library_threads(config))
        found.append(config)
        return 0

    status = guard(read)
    if status:
        sys.exit(status)
    return found[0], {name: getattr(parsed, name) for name in arguments or {}}


if __name__ == "__main__":
    sys.exit(main())
