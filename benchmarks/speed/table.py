"""What the speed rows found, kept as strict JSON and as one table.

    python -m benchmarks.speed.table      # write results/README.md anew from the JSON files

`results/ROW.json` holds one record for each version and device, `{"0.1.0 cpu": {...}}`; a new run replaces its own
version's record only, so what earlier versions did stays to be compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskwright import __version__
from maskwright.files import atomic_write, read_json, write_json

RESULTS = Path(__file__).parent / "results"
HEAD = """# Speed, as measured

Written by `python -m benchmarks.speed.table` from the JSON files beside it, which hold every figure. How it is
measured: [benchmarks/README.md](../../README.md).

A ratio is the time (or peak memory) of the other side over ours, so more is better. *Clock*: {threads} threads, median
and quartiles over rounds. *Processor*: one thread, processor time. *Of the limit*: what the machine would need for the
bytes that must move or the operations that must run, over what we took. Ratios carry from one machine to another,
seconds do not.

{machine}
"""
COLUMNS = (
    "row",
    "case",
    "against",
    "bar",
    "clock",
    "quartiles",
    "processor",
    "memory",
    "ours",
    "of the limit",
    "met, or what stands in the way",
)


def keep(record: dict[str, Any]) -> None:
    """Put a row's record beside those of other versions, and write the table."""
    path = RESULTS / f"{record['row']}.json"
    known = read_json(path) if path.is_file() else {}
    write_json(path, {**known, f"{__version__} {record['device']}": record})
    write_table()


def write_table() -> None:
    """Write `results/README.md`."""
    with atomic_write(RESULTS / "README.md") as temporary:
        temporary.write_text("\n".join(_table()) + "\n", encoding="utf-8")


def sentences(case: Mapping[str, Any]) -> list[str]:
    """One case in words, for whoever watches."""
    lines = [f"{case['case']}:"]
    for name, figures in case["contestants"].items():
        wall, cpu = figures["wall_s"], figures["cpu_s"]
        text = f"  {name}: {seconds(wall['median'])} ({seconds(wall['low'])} to {seconds(wall['high'])}, "
        text += f"{wall['rounds']} rounds)"
        text += "" if cpu is None else f", one thread {seconds(cpu['median'])} of the processor"
        if figures["peak_bytes"] is not None:
            text += f", +{figures['peak_bytes'] / 2**20:.1f} MB"
        if figures.get("images_per_s"):
            text += f", {figures['images_per_s']:.4g} images/s"
        lines.append(text + (f" [{figures['scaled_by']}]" if figures["scaled_by"] else ""))
    for bar in case["bars"]:
        text = f"  {bar['ours']} against {bar['against']}: {bar['clock']['median']:.3g} x by the clock"
        text += "" if bar["processor"] is None else f", {bar['processor']['median']:.3g} x by the processor"
        text += "" if bar["memory"] is None else f", {_share(bar['memory'])} of the memory"
        lines.append(f"{text}; bar {bar['words']}: {_verdict(bar)}")
    if case["differences"]:
        lines.append("  " + ", ".join(f"{name} {value:.2g}" for name, value in case["differences"].items()))
    if case["limit"]["seconds"]:
        lines.append(f"  physical limit: {_limit(case['limit'])}")
    return [*lines, *(f"  {note}" for note in case["notes"])]


def seconds(value: float) -> str:
    """Seconds with a unit that fits."""
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def _share(ratio: float) -> str:
    return f"1/{ratio:.3g}" if ratio >= 1 else f"{1 / max(ratio, 1e-9):.3g} x"


def _verdict(bar: Mapping[str, Any]) -> str:
    if bar["met"] is None:
        return "not measured"
    return "met" if bar["met"] else "missed" + (f": {bar['obstacle']}" if bar["obstacle"] else "")


def _limit(limit: Mapping[str, float]) -> str:
    return (
        f"{limit['bytes'] / 2**20:.4g} MB must move and {limit['flops'] / 1e9:.3g} GFLOP run, "
        f"{seconds(limit['seconds'])} at {limit['bytes_per_s'] / 1e9:.3g} GB/s and "
        f"{limit['flops_per_s'] / 1e9:.3g} GFLOP/s as just measured; {limit['share']:.1%} of it reached"
    )


def _table() -> list[str]:
    records = []
    for path in sorted(RESULTS.glob("*.json")):
        versions = read_json(path)
        for device in sorted({key.split()[1] for key in versions}):
            records.append(versions[max(key for key in versions if key.split()[1] == device)])
    if not records:
        return ["Nothing is measured yet."]
    machines = sorted({"- {machine}, Python {python}, torch {torch}".format(**record) for record in records})
    threads = "/".join(sorted({str(record["threads"]) for record in records}))
    lines = [HEAD.format(threads=threads, machine="\n".join(machines))]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for record in records:
        for case in record["cases"]:
            lines += [_line(record, case, bar) for bar in case["bars"]]
    for record in records:
        lines += _growth(record) if "curves" in record else []
    lines += ["", "## Commands", "", "| row | work | command | commit | date |", "|---|---|---|---|---|"]
    for record in records:
        words = (record["row"], record["work"], f"`{record['command']}`", record["commit"], record["date"])
        lines.append("| " + " | ".join(words) + " |")
    others = sorted(path.name for path in RESULTS.glob("*.png"))
    return [*lines, "", *(f"![{name}]({name})" for name in others)]


def _growth(record: Mapping[str, Any]) -> list[str]:
    """Curves of `scaling`, and what a second process brings."""
    lines = [
        "",
        "## Scaling",
        "",
        "Cost is size to the power of the exponent, fitted over the larger half of the sizes.",
        "",
    ]
    lines += ["| work | by | sizes | exponent | over all sizes | largest takes | |", "|" + "---|" * 7]
    for curve in record["curves"]:
        low, high = curve["sizes"][0], curve["sizes"][-1]
        verdict = "" if curve["met"] else curve["why"] or "above the 1.1 it should keep"
        lines.append(
            f"| {curve['name']} | {curve['axis']} | {low:,} to {high:,} | {curve['exponent_late']:.2f} "
            f"| {curve['exponent']:.2f} | {seconds(curve['cpu_s'][-1])} | {verdict} |"
        )
    lines += ["", "| two processes for one | faster by the clock | processor time |", "|---|---|---|"]
    for found in record["processes"]:
        lines.append(f"| {found['name']} | {found['clock']:.2f} x | {found['processor']:.2f} x |")
    return lines


def _line(record: Mapping[str, Any], case: Mapping[str, Any], bar: Mapping[str, Any]) -> str:
    ours, clock = case["contestants"][bar["ours"]], bar["clock"]
    name = record["row"] + ("" if record["device"] == "cpu" else f" ({record['device']})")
    peak = "" if ours["peak_bytes"] is None else f", +{ours['peak_bytes'] / 2**20:.3g} MB"
    rate = f", {ours['images_per_s']:.4g} images/s" if ours.get("images_per_s") else ""
    words = [
        name,
        f"{case['case']}: {bar['ours']}",
        bar["against"],
        bar["words"],
        f"{clock['median']:.3g} x",
        f"{clock['low']:.3g} to {clock['high']:.3g}",
        "-" if bar["processor"] is None else f"{bar['processor']['median']:.3g} x",
        "-" if bar["memory"] is None else _share(bar["memory"]),
        seconds(ours["wall_s"]["median"]) + peak + rate,
        f"{case['limit']['share']:.0%}" if case["limit"]["seconds"] else "-",
        _verdict(bar),
    ]
    return "| " + " | ".join(words) + " |"


if __name__ == "__main__":
    write_table()
