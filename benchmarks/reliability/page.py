"""What the harness found, as a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.facts import as_lines
from benchmarks.reliability.kills import EACH, WORKER

SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")

KILLED = f"""\
## Killed at random moments and started again

One process or its whole group; {", ".join(SIGNALS)}; up to {EACH} times a run. Equal: every map, mask, model, score and
log line has the bits of a run that nobody disturbed.
"""
LABELLED = f"""\
## Labelling part by part, killed and started again

By each engine of [docs/scale.md](../../docs/scale.md), with two processes that label. One of these (workers, ranks,
tasks), the main process or all; up to {EACH} starts of a run. A worker or task that dies does not end the run, a rank
does. Equal: every mask, tar file, index and receipt has the bytes of a run that nobody disturbed.
"""
HARMED = """\
## Starved, damaged, shared

Refused: the command stopped with a message of ours. Equal: the same command then, after what the message asks for, ends
with the results of a run that nobody disturbed; no result is taken from a damaged file.
"""
BAD = """\
## Files that cannot be used

Each beside sound ones: named in our words, without a traceback; the sound ones are used; no code of theirs is run.
"""
TITLE = """\
# Reliability

What happens to runs that are killed, starved, damaged, fed with bad files or shared. `tests/reliability` holds a short
part of it.
"""


def page(found: dict[str, Any]) -> str:
    """The page in Markdown.

    Args:
        found: part -> `found`, what its function gave, and `facts` of the run that gave it.
    """
    lines = [TITLE]
    for name, write in PARTS.items():
        if name in found:
            lines += [*write(found[name]["found"]), "", *as_lines(found[name]["facts"])]
    return "\n".join(lines).rstrip() + "\n"


def rows(head: Sequence[str], cells: Iterable[Sequence[Any]]) -> list[str]:
    """A table."""
    return [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *cells)]


def killed(part: dict[str, Any], title: str = KILLED, signals: Sequence[str] = SIGNALS) -> list[str]:
    stages, table, total = Counter[str](), [], [0] * (len(signals) + 4)
    for name, row in part.items():
        if row is None:
            table.append([name, "not run, as it is not installed", *[""] * (len(total))])
            continue
        by = [row["kills"].get(signal, 0) for signal in signals]
        cells = [sum(by), *by, row["runs"], row["equal"], len(row["problems"])]
        total = [one + more for one, more in zip(total, cells)]
        table.append([name, *cells, f"{row['seconds']:.0f}"])
        stages.update(row["stages"])
    table.append(["**all**", *(f"**{cell}**" for cell in total), ""])
    places = ", ".join(f"{name} {count}" for name, count in stages.most_common())
    problems = [f"- {text}" for row in part.values() if row for text in row["problems"]]
    head = ["run", "kills", *signals, "runs", "equal", "lost or wrong", "seconds"]
    return [title, *rows(head, table), "", f"Where they came: {places}.", *problems]


def labelled(part: dict[str, Any]) -> list[str]:
    return killed(part, LABELLED, (*SIGNALS, WORKER))


def harmed(part: dict[str, Any]) -> list[str]:
    table = []
    for name, outcomes in part.items():
        equal = sum(outcome["equal"] for outcome in outcomes)
        refused = sum(outcome["refused"] for outcome in outcomes)
        table.append([name, len(outcomes), refused, equal, len(outcomes) - equal])
    wrong = [outcome for outcomes in part.values() for outcome in outcomes if not outcome["equal"]]
    said = [f"- {outcome['name']}: {outcome['said'][:200]}" for outcome in wrong]
    return [HARMED, *rows(["what", "tried", "refused", "equal", "not equal"], table), *([""] if said else []), *said]


def bad(part: dict[str, Any]) -> list[str]:
    table = [*part["tried"].items(), ("**all**", f"**{sum(part['tried'].values())}**")]
    wrong = [f"- not so: {text}" for text in part["wrong"]]
    return [BAD, *rows(["kind", "tried"], table), *([""] if wrong else []), *wrong]


def several(part: dict[str, Any]) -> list[str]:
    head = [
        "processes (gloo)",
        "largest difference of a trained weight to one process",
        "maps and masks of one classifier",
    ]
    table = [
        [row["count"], f"{row['farthest']:.1e}", "the same bits" if row["same"] else "**differ**"]
        for row in part["equal"]
    ]
    dead = [
        f"- Of {row['count']} processes one is killed: all are gone after {row['seconds']:.1f} s, exit "
        f"code {row['code']}; said: `{row['reason']}`."
        for row in part["dead"]
    ]
    return ["## Several processes", "", *rows(head, table), "", *dead]


def long(part: dict[str, Any]) -> list[str]:
    table = [
        [f"{kind}, {loaders}", *(f"{values[place]:.0f}" for place in (0, len(values) // 2, -1))]
        for loaders, kinds in part.items()
        if isinstance(kinds, dict)
        for kind, values in kinds.items()
    ]
    equal = "are the same" if part["loaders are equal"] else "**differ**"
    return [
        f"## {part['epochs']} epochs",
        "",
        *rows(["after each tenth", "first", "half", "last"], table),
        "",
        f"The bits of a training with 0, 1 and 4 loader processes {equal}.",
    ]


PARTS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "kills": killed,
    "labels": labelled,
    "harms": harmed,
    "files": bad,
    "ranks": several,
    "epochs": long,
}
