"""A study made block by block, on any number of machines: save finished blocks, and put saved blocks together.

    python benchmarks/study.py save configs/study/main.yaml
    python benchmarks/study.py table configs/study/main.yaml
    python benchmarks/study.py dense configs/study/pilot.yaml

A block is all runs of one task and one seed, made on one processor. `save` writes each finished block of the config's output
directory to docs/study/blocks: its rows of the tidy table, compressed, and what it was made with (versions, processor, revision,
seconds, and the path of each run, which ends in the hash of its settings). A block that is saved already is left alone. `table`
reads the saved blocks of a config, checks that they are runs of its plan, and writes docs/study/CONFIG.csv, the tidy table, from
which everything that is published is computed; it prints the conclusion, and names blocks made with other versions. `dense` adds
the last evaluation of each finished dense agent to docs/study/CONFIG.csv: it chooses the tasks.
"""

import argparse
import csv
import gzip
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from common import processor
from rich.console import Console

from src.lth.api import conclude, planned_runs, read_config
from src.lth.experiment import journal, records
from src.lth.experiment.plan import Plan
from src.lth.experiment.spec import Spec
from src.lth.experiment.tidy import RANDOM_POLICY, Collector, TidyRow
from src.lth.files import csv_bytes, write_whole
from src.lth.reporting.terminal import results_table
from src.lth.reporting.views import run_rows, summarize

STUDY = Path(__file__).resolve().parents[1] / "docs" / "study"
Block = tuple[str, int]


def blocks(plan: Plan) -> dict[Block, list[Spec]]:
    """Return the runs of each task and seed."""
    found: dict[Block, list[Spec]] = defaultdict(list)
    for spec in plan.specs:
        found[spec.task, spec.seed].append(spec)
    return dict(found)


def file_of(config: Path, block: Block, suffix: str) -> Path:
    """Return where a block's rows (`.csv.gz`) or facts (`.json`) are saved."""
    return STUDY / "blocks" / config.stem / f"{block[0]}-seed{block[1]}{suffix}"


def save(config: Path, plan: Plan) -> None:
    """Save the finished blocks of an output directory."""
    collector = Collector(plan)
    for block, specs in blocks(plan).items():
        if file_of(config, block, ".json").exists() or not all(journal.is_finished(plan.root, s) for s in specs):
            continue
        rows = collector.rows(specs)
        if collector.left_out:
            raise SystemExit(f"{block}: {next(iter(collector.left_out.values()))}")
        # `mtime=0`: the same rows are the same bytes.
        data = gzip.compress(csv_bytes(TidyRow._fields, rows), mtime=0)
        write_whole(file_of(config, block, ".csv.gz"), data, checksum=False)
        text = json.dumps(facts(plan, specs), indent=1, sort_keys=True) + "\n"
        write_whole(file_of(config, block, ".json"), text.encode(), checksum=False)
        print(f"saved {block[0]} seed {block[1]}: {len(rows)} rows, {len(data) / 1e3:.0f} kB")


def facts(plan: Plan, specs: list[Spec]) -> dict[str, object]:
    """Return what the runs of a block were made with."""
    made = [records.read_provenance(plan.root / spec.path) for spec in specs]
    seconds = {str(s.path): journal.read_timings(plan.root / s.path)["total"] for s in specs}
    times = [line["time"] for s in specs for line in journal.read_lines(plan.root / s.path / journal.ATTEMPTS) if line]
    versions = {name: sorted({m["versions"][name] for m in made}) for name in sorted(made[0]["versions"])}
    return {
        "revision": sorted({str(m["git_revision"]) for m in made}),
        "versions": {name: "; ".join(values) for name, values in versions.items()},
        "backend": json.loads((plan.root / "backend.json").read_text()),
        "processor": processor(),
        "begun": min(times),
        "last_begun": max(times),
        "seconds": {path: round(value, 1) for path, value in seconds.items()},
    }


def saved_rows(config: Path, plan: Plan) -> tuple[list[TidyRow], list[Block]]:
    """Return the rows of a config's saved blocks, in the order of its plan, and the blocks that are missing."""
    rows: dict[TidyRow, None] = {}
    missing, made_with = [], Counter[str]()
    for block, specs in blocks(plan).items():
        if not file_of(config, block, ".json").exists():
            missing.append(block)
            continue
        known = json.loads(file_of(config, block, ".json").read_text())
        if {str(spec.path) for spec in specs} != set(known["seconds"]):
            raise SystemExit(f"{file_of(config, block, '.json')} holds other runs than {config} plans")
        made_with[json.dumps([known["versions"], known["backend"], known["processor"]])] += 1
        rows |= dict.fromkeys(read(file_of(config, block, ".csv.gz")))
    if len(made_with) > 1:
        print("Blocks were made with different versions or processors:")
        print("\n".join(f"  {count}: {text}" for text, count in made_with.items()))
    order = sorted(rows, key=lambda row: row.method != RANDOM_POLICY)
    return order, missing


def read(path: Path) -> Iterator[TidyRow]:
    """Read the rows of a block."""
    lines = csv.reader(io.StringIO(gzip.decompress(path.read_bytes()).decode()))
    assert tuple(next(lines)) == TidyRow._fields, path
    for task, seed, method, control, sparsity, rewind, run, env_steps, metric, value in lines:
        yield TidyRow(task, int(seed), method, control, sparsity, rewind, run, int(env_steps), metric, float(value))


def table(config: Path, plan: Plan) -> None:
    """Put the saved blocks together."""
    rows, missing = saved_rows(config, plan)
    if missing:
        print(f"{len(missing)} blocks are missing: {', '.join(f'{task} seed {seed}' for task, seed in missing)}")
    if not rows:
        return
    write_whole(STUDY / f"{config.stem}.csv", csv_bytes(TidyRow._fields, rows), checksum=False)
    Console().print(results_table(summarize(run_rows(rows))))
    for line in conclude(plan.config, rows).headline:
        print(line)


def dense(config: Path, plan: Plan) -> None:
    """Save the last evaluation of each finished dense agent, beside those that are saved already."""
    path = STUDY / f"{config.stem}.csv"
    columns = ["task", "seed", "env_steps", "metric", "value", "run"]
    rows = set()
    if path.exists():
        rows = {tuple(row.values()) for row in csv.DictReader(io.StringIO(path.read_text()))}
    for spec in plan.specs:
        if spec.stage == "dense" and journal.is_finished(plan.root, spec):
            for name, steps in journal.read_evaluations(plan.root / spec.path).items():
                last = max(steps)
                rows.add((spec.task, str(spec.seed), str(last), name, f"{steps[last]:.6g}", str(spec.path)))
    write_whole(path, csv_bytes(columns, sorted(rows)), checksum=False)
    print(path.read_text(), end="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = {"save": save, "table": table, "dense": dense}
    parser.add_argument("command", choices=commands)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", help="as for `lth run`")
    options = parser.parse_args()
    commands[options.command](options.config, planned_runs(read_config(options.config, *options.overrides)))


if __name__ == "__main__":
    main()
