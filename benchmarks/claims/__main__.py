"""Do the papers' claims hold here? Every row in several repetitions, and a verdict for each claim.

    python -m benchmarks.claims msrc=FOLDER camvid=FOLDER [out=DIR] [repetitions=5] [only="msrc CAM$;L2G"] [lanes=1]
    make claims-quick                       # a few rows, three repetitions: a quarter of an hour on two quiet cores

The scenes need no folder; a set without one is left out. A repetition has another random seed and other training
images: 80 % of those of MSRC-21 and CamVid, drawn at random, or other scenes. Rows are compared within repetitions. A
row that is done is read from `out`, so a stopped command goes on, and two commands with different `only=` share the
work: each runs the rows whose set and name hold one of the regular expressions. Sets run side by side where there are
several `lanes`. The page is written after each row, to `benchmarks/claims/results`; with `quick=true` to `out`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from os import environ
from pathlib import Path
from threading import Lock
from typing import Any

from benchmarks.claims.front import write_front
from benchmarks.claims.repetition import folder_name, write_row
from benchmarks.claims.rows import QUICK, QUICK_REPETITIONS, REPETITIONS, ROWS, SETS
from benchmarks.claims.statements import CLAIMS, EQUAL, WORTH, verdict
from benchmarks.facts import as_lines, facts
from maskwright.files import atomic_write, write_json
from maskwright.runs.results import mean_interval

RESULTS = Path(__file__).parent / "results"
TITLES = {
    "photographs": "The recipes for photographs as they are, on all of MSRC-21's training images",
    "msrc": "MSRC-21, photographs with tags (15 objects and background), EfficientNet-Lite0 with ImageNet weights",
    "scenes": "Built-in scenes with tags, EfficientNet-Lite0 with ImageNet weights",
    "camvid": "CamVid, road scenes with masks (11 classes), EfficientNet-Lite0 with ImageNet weights",
}


def page(done: dict[tuple[str, str, int], dict[str, float]], found: dict[str, Any]) -> str:
    """The verdicts, then the mean of every score of every row.

    Args:
        done: scores by set, row and repetition.
        found: facts of this command.
    """
    lines = [
        "# Do the papers' claims hold here?",
        "",
        *as_lines(found),
        "Differences of mIoU, or of the score that is named, mean over the repetitions and its 95 % interval "
        "(Student's t), row by row within a repetition: another random seed, other training images. Scored on `val`, "
        "whose images nothing was learned from, each at a threshold that was fixed beforehand or chosen from tags. "
        "**holds**: the "
        f"interval is above 0; **does not hold**: it lies below +{WORTH}; for what should be equal, the limit is "
        f"-{EQUAL}. Drawn sets overlap, so intervals are somewhat too narrow. Small networks, short training: what "
        "does not hold here may hold in the paper's setting.",
        "",
        "| claim | set | compared | n | difference | verdict | why, as far as we know |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim in CLAIMS:
        rows = [claim.row, *([claim.control] if claim.control else [])]
        numbers = sorted({key[2] for key in done if key[:2] == (claim.where, claim.row)})
        numbers = [n for n in numbers if all(claim.score in done.get((claim.where, row, n), {}) for row in rows)]
        named = f"{claim.row} - {claim.control}" if claim.control else claim.row
        named += "" if claim.score == "val" else f": {claim.score}"
        if not numbers:
            lines.append(f"| {claim.words} | {claim.where} | {named} | 0 | | not run | |")
            continue
        pairs = [[done[claim.where, row, n][claim.score] for row in rows] for n in numbers]
        word, figure = verdict(claim, [pair[0] - (pair[1] if claim.control else 0) for pair in pairs])
        reason = "" if word == "holds" else claim.reason
        lines.append(f"| {claim.words} | {claim.where} | {named} | {len(numbers)} | {figure} | **{word}** | {reason} |")
    for where in SETS:
        rows = [row for row in ROWS if any(key[:2] == (where, row) for key in done)]
        if not rows:
            continue
        scores = list(dict.fromkeys(score for key, has in done.items() if key[0] == where for score in has))
        lines += ["", f"## {TITLES[where]}", "", "| row | n | " + " | ".join(scores) + " |"]
        lines.append("|---" * (len(scores) + 2) + "|")
        for row in rows:
            mine = [has for key, has in done.items() if key[:2] == (where, row)]
            cells = [_cell([has[score] for has in mine if score in has]) for score in scores]
            lines.append(f"| {row} | {len(mine)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    mean, half = mean_interval(values)
    return f"{mean:.3f}" + ("" if half is None else f" ± {half:.3f}")


def main() -> None:
    options = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    known = {"msrc", "camvid", "out", "repetitions", "only", "quick", "lanes", "row", "set", "repetition"}
    if unknown := options.keys() - known:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}\n{__doc__}")
    quick = options.get("quick") == "true"
    out = Path(options.get("out", "runs/claims-quick" if quick else "runs/claims"))
    data = {"scenes": "scenes", **{where: options[where] for where in ("msrc", "camvid") if where in options}}
    if "msrc" in data:
        data["photographs"] = data["msrc"]
    if "row" in options:  # the process of one row
        where = options["set"]
        write_row(options["row"], where, data[where], out / where, int(options["repetition"]))
        return
    found, words = facts(), options["only"].split(";") if "only" in options else [""]
    results = out if quick else RESULTS
    count = int(options.get("repetitions", QUICK_REPETITIONS if quick else 5))
    turns = {
        where: [
            (row, number)
            for number in range(min(count, REPETITIONS.get(where, count)))
            for row in ROWS
            if where in ROWS[row].sets
            and (number == 0 or not ROWS[row].once)
            and any(re.search(word, f"{where} {row}") for word in words)
            and (not quick or row in QUICK.get(where, ()))
        ]
        for where in SETS
        if where in data
    }
    lanes = int(options.get("lanes", "2" if quick else "1"))
    lock = Lock()

    def run_set(where: str) -> list[str]:
        """All rows of a set, one after the other, for they share stages; the names of those that failed."""
        failed = []
        for row, number in turns[where]:
            if _file(out, where, row, number).is_file():
                continue
            command = [sys.executable, "-m", "benchmarks.claims", *sys.argv[1:], f"out={out}"]
            command += [f"row={row}", f"set={where}", f"repetition={number}"]
            code = subprocess.run(command, env={**environ, "OMP_NUM_THREADS": "1"}).returncode
            print(f"{number} {where} {row}: {'done' if code == 0 else f'failed ({code})'}", flush=True)
            failed += [f"{where} {row}"] if code else []
            with lock:
                write_page(out, results, found)
        return failed

    with ThreadPoolExecutor(lanes) as pool:
        failed = [name for names in pool.map(run_set, turns) for name in names]
    write_page(out, results, found)
    print(f"written to {results / 'claims.md'}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _file(out: Path, where: str, row: str, number: int) -> Path:
    return out / where / str(number) / folder_name(row) / "row.json"


def write_page(out: Path, results: Path, found: dict[str, Any]) -> None:
    """The page and its figures, of all rows that are done.

    Args:
        out: folder of the rows.
        results: gets `claims.md` and `claims.json`; the README's table is made only of those that are kept.
        found: facts of this command.
    """
    rows = [json.loads(path.read_text()) for path in sorted(out.glob("*/*/*/row.json"))]
    kept = [row for row in rows if row["row"] in ROWS]
    done = {(row["set"], row["row"], row["repetition"]): row["scores"] for row in kept}
    write_json(results / "claims.json", {"facts": found, "rows": kept})
    if results == RESULTS:
        write_front(kept)
    with atomic_write(results / "claims.md") as temporary:
        temporary.write_text(page(done, found), encoding="utf-8")


if __name__ == "__main__":
    main()
