"""What is wrong with a set of images and labels, found before an hour is lost: `maskwright data check`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from maskwright.data import Dataset, open_split
from maskwright.data.check_images import depth_findings, transparency
from maskwright.data.check_sums import SplitSummary, add_up
from maskwright.data.check_tags import tag_findings
from maskwright.data.finding import Finding, FindingError, Level, few, number_of
from maskwright.data.images import ImageSet
from maskwright.data.masks import map_text, range_finding
from maskwright.data.saliency import DETECTORS
from maskwright.data.shards.damage import damaged
from maskwright.data.shards.names import Names
from maskwright.data.shards.reader import ShardSet
from maskwright.data.tags import TAGS_FROM_MASKS
from maskwright.errors import DataError
from maskwright.settings import DataSettings

__all__ = ["Finding", "SplitSummary", "check", "examine", "report"]


MOST_ABSENT = 20  # classes without a pixel or a tag that the table of a split lists


def check(settings: DataSettings, splits: Sequence[str] | None = None) -> list[Finding]:
    """What is wrong with a set, and what is in it; every image and mask is read once.

    Args:
        settings: as for `open_dataset`.
        splits: names of splits, the one that is trained on first; by default the settings' `train` and `val`.

    Returns:
        Findings: errors first, then warnings, then the tables of what is there. Where any is an error, training or the
        scores after it would be wrong.
    """
    return examine(settings, splits)[0]


def examine(
    settings: DataSettings,
    splits: Sequence[str] | None = None,
    seconds: float | None = None,
    all_masks: bool = False,
) -> tuple[list[Finding], list[SplitSummary]]:
    """As `check`, in limited time, with what each split holds.

    Args:
        settings: as for `check`.
        splits: as for `check`.
        seconds: about the most that is spent on the files of a split, which are then read in random order; all are by
            default. What a part cannot tell is not said: a class without a pixel, labels that are all the same.
        all_masks: of the images that are not read in that time, read the mask files nonetheless.

    Returns:
        Findings as `check` gives them, and one summary for each split that could be opened.
    """
    findings: list[Finding] = []
    summaries: list[SplitSummary] = []
    for split in dict.fromkeys(splits or (settings.train, settings.val)):
        try:
            dataset = open_split(settings, split, findings.append)
        except FindingError as error:
            findings.append(error.finding or Finding("error", str(error)))
            continue
        except DataError as error:
            findings.append(Finding("error", str(error)))
            continue
        summary = SplitSummary(split, dataset.labels, dict(dataset.source))
        tags = len(dataset.labels.foreground)
        summary.together = np.zeros((tags, tags), np.int64)
        summary.tags_derived = dataset.source.get("tag_source") in (None, *TAGS_FROM_MASKS)
        add_up(summary, dataset, seconds, all_masks)
        findings += _problems(summary)
        if isinstance(dataset, ImageSet):
            findings += depth_findings(split, summary.numbers, dataset, summary.whole)
            findings += transparency(split, summary.transparent)
        if isinstance(dataset, ShardSet) and seconds is None:
            findings += damaged(dataset)
        findings += _saliency(settings, dataset, training=not summaries)
        findings += _coverage(summary, training=not summaries, source=dataset.source)
        findings += _classes(summary, training=not summaries)
        findings += _tags(summary, training=not summaries)
        if len(dataset):
            findings.append(_table(summary, dataset.source))
        summaries.append(summary)
    findings += _between(summaries)
    once = {(finding.level, finding.what, *finding.files): finding for finding in reversed(findings)}
    order = {"error": 0, "warning": 1, "info": 2}
    return sorted(reversed(once.values()), key=lambda finding: order[finding.level]), summaries


def report(findings: Iterable[Finding]) -> str:
    """Findings as plain text that ends with the verdict."""
    findings = list(findings)
    blocks = []
    for finding in findings:
        lines = [f"{finding.level.upper()}: {finding.what}"]
        if finding.files:
            more = finding.count - len(finding.files)
            lines.append(f"  in: {', '.join(finding.files)}" + (f" and {more} more" if more > 0 else ""))
        if finding.expected:
            lines.append(f"  expected: {finding.expected}")
        if finding.fix:
            lines.append(f"  fix: {finding.fix}")
        blocks.append("\n".join(lines))
    errors = sum(finding.level == "error" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    verdict = f"{number_of(errors, 'error')}, {number_of(warnings, 'warning')}"
    blocks.append(f"{verdict}: " + ("training would be wrong" if errors else "fit to train on"))
    return "\n\n".join(blocks) + "\n"


def _problems(summary: SplitSummary) -> list[Finding]:
    """One finding for each kind of problem that single files have."""
    found = []
    for kind, (first, files) in summary.examples.items():
        count = len(files)
        if kind == "mask-range":
            found.append(range_finding(summary.out_of_range, summary.labels, files, count))
            continue
        what = first.what if count == 1 else f"{count} files in {summary.split}; of the first: {first.what}"
        found.append(Finding(first.level, what, files, count, first.expected, first.fix, kind))
    return found


def _saliency(settings: DataSettings, dataset: Dataset, training: bool) -> list[Finding]:
    """A folder of saliency maps that has none of a split; one that has some of them is the reader's finding."""
    if settings.saliency in (None, *DETECTORS) or dataset.saliency is not None or not len(dataset):
        return []
    if dict(dataset.source).get("saliency"):  # packed with the images
        return []
    what = f"no image of the split has a saliency map in {settings.saliency}"
    level: Level = "error" if training else "info"
    return [
        Finding(
            level,
            what,
            count=len(dataset),
            expected=f"maps named as the images, such as {dataset.names[0]}.png",
            fix=f"write them with maskwright saliency {settings.root} out={settings.saliency}" if training else "",
            kind="saliency-none",
        )
    ]


def _coverage(summary: SplitSummary, training: bool, source: dict) -> list[Finding]:
    """Images that lack masks or tags, and masks that hold too little."""
    found: list[Finding] = []
    split, images = summary.split, summary.images
    whole = number_of(images, "image")
    if not images:
        return [Finding("error" if training else "warning", f"{split} has no images", kind="no-images")]
    if len(summary.unlabelled) == images and training:
        fix = "give masks=FOLDER or tags=FILE"
        found.append(Finding("error", f"no image of {split} has a mask or tags", fix=fix, kind="no-labels"))
    elif summary.unlabelled and training:
        what = f"{len(summary.unlabelled)} of {whole} of {split} have neither a mask nor tags"
        fix = "label them, or leave them out of the split"
        found.append(
            Finding("warning", what, summary.unlabelled.first, len(summary.unlabelled), fix=fix, kind="unlabelled")
        )
    if len(summary.unmasked) == images and not training:
        found.append(Finding("info", f"no image of {split} has a mask: scores cannot be measured", kind="no-masks"))
    elif len(summary.unmasked) < images and summary.unmasked:
        what = f"{len(summary.unmasked)} of {whole} of {split} have no mask"
        fix = f"add them to {source.get('masks')}, unless tags or pseudo-masks are to stand for them"
        found.append(Finding("warning", what, summary.unmasked.first, len(summary.unmasked), fix=fix, kind="no-mask"))
    if source.get("tag_source") and not summary.tags_derived and summary.untagged:
        none = len(summary.untagged) == images
        level: Level = "error" if none and training and len(summary.unmasked) == images else "warning"
        what = f"{len(summary.untagged)} of {whole} of {split} are not in {source['tag_source']}"
        expected = "a row for every image, with an empty list where no tag applies"
        files, count = summary.untagged.first, len(summary.untagged)
        found.append(Finding(level, what, files, count, expected, "add rows for them", "no-tags"))
    if summary.masks:
        found += _content(summary, training)
    return found


def _content(summary: SplitSummary, training: bool) -> list[Finding]:
    """Masks that are readable and yet teach nothing."""
    labels = summary.labels
    present = np.flatnonzero(summary.pixels[: labels.num_classes])
    if not summary.all_masks:
        return []
    ignored = int(summary.pixels[labels.ignore_index]) if 0 <= labels.ignore_index < 256 else 0
    if len(present) > 1 or "mask-range" in summary.examples:
        return []
    if len(present) == 1 and ignored:
        only, ignore = int(present[0]), labels.ignore_index
        fix = f"give data.label_map='{map_text({only: 0, ignore: 1})}'"
        return [
            Finding(
                "error" if training or summary.binary else "warning",
                f"every mask of {summary.split} holds only the values {only} and {ignore}, and {ignore} is ignored: "
                f"nothing but {labels.names[only]} would be learned",
                count=summary.masks,
                expected=f"values 0 to {labels.num_classes - 1}" if labels.num_classes > 1 else "two classes or more",
                fix=fix if labels.num_classes > 1 else f"{fix}, and name both classes",
                kind="mask-binary",
            )
        ]
    only_name = f"only {labels.names[present[0]]}" if len(present) else "no class, every pixel is ignored"
    what = f"the {summary.masks} masks of {summary.split} hold {only_name}"
    level: Level = "error" if training else "warning"
    return [Finding(level, what, expected="two classes or more", fix="look at the masks", kind="mask-constant")]


def _classes(summary: SplitSummary, training: bool) -> list[Finding]:
    """Classes that never occur, and classes that masks and tags disagree on."""
    labels, split = summary.labels, summary.split
    found = []
    if summary.masks and summary.all_masks:
        absent = [name for value, name in enumerate(labels.names) if not summary.pixels[value]]
        if absent and len(absent) < labels.num_classes:
            what = f"{len(absent)} of {labels.num_classes} classes are in no mask of {split}: {few(absent)}"
            fix = "add images with them, or drop them from the classes" if training else "add images with them"
            then = "" if training else "; their IoU cannot be measured"
            found.append(Finding("warning", what + then, count=len(absent), fix=fix, kind="class-empty"))
    if training and summary.tagged and not summary.tags_derived:
        counts = summary.tag_counts
        absent = [name for name, count in zip(labels.tag_names, counts) if not count]
        if absent:
            what = f"{len(absent)} of {len(labels.tag_names)} tags are on no image of {split}: {few(absent)}"
            fix = "tag images with them, or drop them from the classes"
            level: Level = "error" if len(absent) == len(counts) and not summary.masks else "warning"
            found.append(Finding(level, what, count=len(absent), fix=fix, kind="tag-empty"))
    for pairs, what, kind in (
        (summary.tag_without_pixels, "tagged, but without a pixel in the mask", "tag-without-pixels"),
        (summary.pixels_without_tag, "in the mask, but not tagged", "pixels-without-tag"),
    ):
        if not pairs:
            continue
        names = sorted({name for images in pairs.values() for name in images})
        classes = ", ".join(
            f"{labels.names[value]} ({number_of(len(images), 'image')})" for value, images in sorted(pairs.items())
        )
        fix = "correct the tags or the masks; tags=masks derives tags that agree"
        found.append(Finding("warning", f"{split}: {what}: {classes}", names, len(names), fix=fix, kind=kind))
    return found


def _tags(summary: SplitSummary, training: bool) -> list[Finding]:
    """What is wrong with the tags that are trained on."""
    if not training or not summary.tagged:
        return []
    if not summary.tags_derived and not summary.tag_counts.any() and len(summary.unmasked) == summary.images:
        what = f"no image of {summary.split} has a tag: {number_of(summary.tagged, 'image')} with an empty list"
        fix = "name what is in the images in the table of tags"
        return [Finding("error", what, count=summary.tagged, fix=fix, kind="no-tag")]
    given = not summary.tags_derived
    return tag_findings(summary.labels.tag_names, summary.together, summary.tagged, given=given)


def _between(summaries: list[SplitSummary]) -> list[Finding]:
    """Images that are in the set more than once, and splits of other channels."""
    found = []
    channels = {summary.split: summary.source.get("channels", 3) for summary in summaries if summary.images}
    if len(set(channels.values())) > 1:
        counts = ", ".join(f"{count} in {split}" for split, count in channels.items())
        fix = "data.options='{channels: [0, 1, 2]}' reads three of each"
        found.append(Finding("error", f"images of different channels: {counts}", fix=fix, kind="split-channels"))
    for summary in summaries:
        groups = [names for names in summary.digests.values() if len(names) > 1]
        if groups:
            files = [" = ".join(names[:3]) for names in groups]
            what = f"{number_of(len(groups), 'image')} of {summary.split} also under another name, byte for byte"
            found.append(Finding("warning", what, files, len(files), fix="keep one of each", kind="duplicate"))
    for index, first in enumerate(summaries):
        for second in summaries[index + 1 :]:
            shared = _shared(first.names, second.names)
            fix = f"take them out of {first.split} or {second.split}; scores on images trained on say little"
            if shared:
                what = f"{number_of(len(shared), 'image')} in both {first.split} and {second.split}"
                found.append(Finding("error", what, shared, len(shared), fix=fix, kind="split-overlap"))
            same = [
                f"{names[0]} = {second.digests[digest][0]}"
                for digest, names in first.digests.items()
                if digest in second.digests and not set(names) & set(second.digests[digest])
            ]
            if same:
                count = number_of(len(same), "image")
                what = f"{count} of {first.split} also in {second.split} under another name, byte for byte"
                found.append(Finding("warning", what, same, len(same), fix=fix, kind="split-duplicate"))
    return found


def _shared(first: set[str] | Names, second: set[str] | Names) -> list[str]:
    """Names that are in both, ascending."""
    if isinstance(first, Names) and isinstance(second, Names):
        return first.shared(second)
    return sorted(name for name in first if name in second)


def _table(summary: SplitSummary, source: dict) -> Finding:
    """Class frequencies of a split, as an aligned table."""
    labels = summary.labels
    total = max(1, int(summary.pixels[: labels.num_classes].sum()))
    width = max(map(len, labels.names))
    width = max(width, len("(ignored)"))
    lines = [
        f"{summary.split}: {number_of(summary.images, 'image')}, {number_of(summary.masks, 'readable mask')}, "
        f"tags for {summary.tagged}",
        *(f"  {key}: {source[key]}" for key in ("split_source", "classes", "masks", "tag_source") if source.get(key)),
        f"  {'class':{width}}  pixels %   in masks     tagged",
    ]
    tags = dict(zip(labels.foreground, summary.tag_counts.tolist()))
    absent = [value for value in range(labels.num_classes) if not summary.with_pixels[value] and not tags.get(value)]
    left_out = set(absent) if len(absent) > MOST_ABSENT else set()
    for value, name in enumerate(labels.names):
        if value in left_out:
            continue
        share = f"{100 * summary.pixels[value] / total:8.3f}" if summary.masks else f"{'-':>8}"
        images = f"{summary.with_pixels[value]}" if summary.masks else "-"
        tagged = f"{tags[value]}" if summary.tagged and value in tags else "-"
        lines.append(f"  {name:{width}}  {share}  {images:>9}  {tagged:>9}")
    if left_out:
        lines.append(f"  and {len(left_out)} classes in no mask and no tag")
    if summary.masks and 0 <= labels.ignore_index < 256:
        ignored = 100 * summary.pixels[labels.ignore_index] / max(1, int(summary.pixels.sum()))
        lines.append(
            f"  {'(ignored)':{width}}  {ignored:8.3f}  {summary.with_pixels[labels.ignore_index]:>9}  {'-':>9}"
        )
    return Finding("info", "\n".join(lines), count=summary.images, kind="table")
