"""A recipe, end to end: which stages a run has and what each of them does.

Data flows one way: data -> (classifier -> seeds -> pseudo-masks) -> segmenter -> evaluation -> report. The weak stages
end in a folder of masks in PASCAL VOC layout; after it, training does not know where a mask came from.
"""

from __future__ import annotations

import platform
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

from maskwright.errors import DataError, RecipeError
from maskwright.files import atomic_write, read_json, write_json
from maskwright.pipeline.refine import refinement_stages
from maskwright.recipe.load import dump_recipe
from maskwright.runs.stages import Stage, effective, fingerprint, run_lock, run_stages
from maskwright.settings import Recipe
from maskwright.version import __version__


def run(recipe: Recipe, *, until: str | None = None, say: Callable[[str], None] = print) -> Path:
    """Run a recipe, or go on with it where it was stopped.

    Args:
        recipe: what to do.
        until: name of the last stage to run; all by default.
        say: prints one line.

    Returns:
        The run folder.

    Raises:
        DataError: images, masks or tags cannot be used.
        RecipeError: settings that do not go together.
        TrainingStopped: training could not give a usable model.
    """
    from maskwright.engine import distributed
    from maskwright.engine.device import half_type

    distributed.initialise(recipe.device)
    main = distributed.is_main()
    if not main:
        say = _silent
    out = Path(recipe.out or f"runs/{recipe.name}")
    with run_lock(out) if main else nullcontext():
        job = Run(recipe, out, say)
        for block in (recipe.seeds, recipe.inference):
            half_type(block.autocast, job.device)  # what cannot be should be known before the work, not after it
        stages = job.stages(until)
        if main:
            with atomic_write(out / "recipe.yaml") as temporary:
                temporary.write_text(dump_recipe(recipe), encoding="utf-8")
            write_json(out / "run.json", run_facts(recipe))
        run_stages(stages, out, say)
        if main and any(stage.name == "pseudo_masks" for stage in stages):
            job.judge_maps()
        if main and until is None:
            job.finish()
    distributed.barrier()
    return out


def run_facts(recipe: Recipe) -> dict[str, Any]:
    """What, where and when: kept in `run.json` beside the results."""
    import torch

    from maskwright.engine import distributed

    return {
        "command": shlex.join(["maskwright", *sys.argv[1:]]),
        "version": __version__,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seed": recipe.seed,
        "processes": distributed.world_size(),
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


class Run:
    """The stages of one recipe in one folder, and the datasets that they share."""

    def __init__(self, recipe: Recipe, out: Path, say: Callable[[str], None]) -> None:
        self.recipe, self.out, self.say = recipe, out, say
        self.map_stage = "seeds"  # the stage whose maps become pseudo-masks

    @cached_property
    def device(self):
        from maskwright.engine.device import choose_device

        return choose_device(self.recipe.device)

    @cached_property
    def train(self):
        from maskwright.data import open_dataset

        return open_dataset(self.recipe.data, self.recipe.data.train)

    @cached_property
    def val(self):
        from maskwright.data import open_dataset

        return open_dataset(self.recipe.data, self.recipe.data.val)

    @cached_property
    def judged(self):
        """The images that maps are judged on beside published numbers."""
        from maskwright.data import open_dataset, subset

        split = self.recipe.judged_on
        if split is None:
            return self.train
        judged, labelled = open_dataset(self.recipe.data, split), set(self.train.names)
        chosen = [index for index, name in enumerate(judged.names) if name in labelled]
        if not chosen:
            raise DataError(
                f"judged_on={split}: none of its {len(judged)} images is in split {self.recipe.data.train!r}, which "
                "gets maps; give a part of it, or judged_on=none"
            )
        return subset(judged, chosen)

    @cached_property
    def saliency_facts(self) -> dict[str, Any]:
        """What the stages that may look at saliency maps depend on, and the tag classifier does not."""
        from maskwright.data.content import content_hash

        source = dict(self.train.source).get("saliency")
        if source is None and getattr(self.train, "saliency", None) is None:
            return {}
        return {"saliency_maps": {"source": source, "content": content_hash(self.train, ["saliency"])}}

    @cached_property
    def real(self) -> list[str]:
        """Names whose real masks may be trained on beside pseudo-masks."""
        if self.recipe.supervision != "mixed":
            return []
        have = [name for index, name in enumerate(self.train.names) if self.train.has_mask(index)]
        if self.recipe.mixed_list is None:
            return have
        path = Path(self.recipe.mixed_list)
        if not path.is_file():
            raise DataError(f"mixed_list: {path} does not exist; expected a file with one image name per line")
        listed = path.read_text(encoding="utf-8").split()
        missing = sorted(set(listed) - set(have))
        if missing:
            raise DataError(
                f"{path} lists {len(missing)} images without a mask in split {self.recipe.data.train!r}: "
                f"{', '.join(missing[:5])}"
            )
        return listed

    def stages(self, until: str | None = None) -> list[Stage]:
        """The stages of this recipe, in order, up to and including `until`."""
        recipe = self.recipe
        data = {"train": _data_facts(self.train), "val": _data_facts(self.val)}
        weak = recipe.supervision != "masks"
        stages: list[Stage] = []
        if weak:
            _ = self.judged  # a split that is not there should be known before the work, not after it
            stages += self.network_stages(data["train"])
            stages += [
                Stage(
                    "seeds",
                    f"maps from the network ({recipe.seeds.method})",
                    self.make_seeds,
                    {"seeds": effective(recipe.seeds)},
                    (self.seed_network,),
                ),
            ]
            refinements, self.map_stage = refinement_stages(self)
            stages += [
                *refinements,
                Stage(
                    "pseudo_masks",
                    "maps to pseudo-masks",
                    self.make_pseudo_masks,
                    {"pseudo_masks": effective(recipe.pseudo_masks)},
                    (self.map_stage,),
                ),
            ]
        training = {
            "model": effective(recipe.model),
            "loss": effective(recipe.loss),
            "train": effective(recipe.train),
            "seed": recipe.seed,
        }
        from_classifier = recipe.model.pretrained == "classifier"
        if from_classifier and (not weak or recipe.model.backbone != recipe.classifier.backbone):
            raise RecipeError(
                "model.pretrained=classifier starts the segmenter from the tag classifier's backbone: it needs a "
                f"recipe with tags, and model.backbone={recipe.classifier.backbone}; found supervision: "
                f"{recipe.supervision}, model.backbone={recipe.model.backbone}"
            )
        judging = {"data": data["val"], "inference": effective(recipe.inference)}
        settings = {**training, "real_masks": fingerprint(self.real)} if weak else {**training, "data": data["train"]}
        stages += [
            Stage(
                "segmenter", "train the segmenter", self.train_segmenter, settings, ("pseudo_masks",) if weak else ()
            ),
            Stage("evaluation", "judge the segmenter", self.evaluate_segmenter, judging, ("segmenter",)),
        ]
        if weak and recipe.oracle:
            stages += [
                Stage(
                    "oracle",
                    "train the same model on true masks, for comparison",
                    self.train_oracle,
                    {**training, "data": data["train"]},
                    (recipe.networks[0],) if from_classifier else (),
                ),
                Stage("oracle_evaluation", "judge the comparison", self.evaluate_oracle, judging, ("oracle",)),
            ]
        if until is not None:
            names = [stage.name for stage in stages]
            if until not in names:
                raise RecipeError(
                    f"recipe {recipe.name} (supervision: {recipe.supervision}) has no stage {until!r}; "
                    f"it has {', '.join(names)}"
                )
            stages = stages[: names.index(until) + 1]
        return stages

    # The stages' work.

    def network_stages(self, data: dict[str, Any]) -> list[Stage]:
        """One stage for each of the recipe's networks; each goes on from the one before."""
        from maskwright.weak.networks import NETWORKS, TITLES

        recipe = self.recipe
        stages: list[Stage] = []
        for before, word in zip([None, *recipe.networks], recipe.networks, strict=False):
            start = None if before is None else self.out / before / "model.safetensors"

            def train(folder: Path, word: str = word, start: Path | None = start) -> None:
                NETWORKS[word](recipe, start, self.train, self.val, folder, self.device)

            settings = {word: effective(getattr(recipe, word)), "seed": recipe.seed}
            if before is None:
                trunk = recipe.classifier if word == "classifier" else recipe.classifier.without_training()
                settings = {"data": data, "classifier": effective(trunk), **settings}
            if word != "classifier":
                settings |= self.saliency_facts
            stages.append(Stage(word, TITLES[word], train, settings, () if before is None else (before,)))
        return stages

    @property
    def seed_network(self) -> str:
        """The stage whose network the maps come from."""
        return self.recipe.networks[-1]

    def make_seeds(self, folder: Path) -> None:
        from maskwright.models.classifier import load_classifier
        from maskwright.weak import extract_seeds

        classifier = load_classifier(self.out / self.seed_network / "model.safetensors").to(self.device)
        extract_seeds(self.train, classifier, self.recipe.seeds, folder, self.device)

    def make_pseudo_masks(self, folder: Path) -> None:
        from maskwright.engine import distributed
        from maskwright.engine.checkpoint import weights_hash
        from maskwright.weak.pseudo_masks import write_pseudo_masks

        if not distributed.is_main():
            return
        recipe = self.recipe
        provenance = {
            "method": recipe.seeds.method,
            "seeds": recipe.seeds.model_dump(mode="json"),
            "classifier": recipe.classifier.backbone,
            "weights": weights_hash(self.out / self.seed_network / "model.safetensors"),
            "pretrained": recipe.classifier.pretrained,
            "saliency": recipe.data.saliency,
            "networks": recipe.networks,
            "crf": ", ".join(self.crf_facts()) or False,
            "refinement": {word: getattr(recipe, word).model_dump(mode="json") for word in recipe.refine},
            "source": self.train.source,
        }
        scores = write_pseudo_masks(
            self.train, self.out / self.map_stage / "maps", recipe.pseudo_masks, folder, provenance
        )
        if scores["miou"] is not None:
            self.say(
                f"    pseudo-masks: mIoU {scores['miou']:.3f} on {scores['split']} "
                f"at threshold {scores['threshold']:.2f} (best {scores['best_threshold']:.2f})"
            )

    def crf_facts(self) -> list[str]:
        """Where a dense CRF had a part in the pseudo-masks."""
        recipe = self.recipe
        labels = [f"IR labels: {recipe.irn.crf}"] if "irn" in recipe.refine and recipe.irn.crf else []
        return labels + ([f"maps: {recipe.crf.preset}"] if "crf" in recipe.refine else [])

    def train_segmenter(self, folder: Path) -> None:
        from maskwright.data import subset, with_masks

        train = self.train
        if self.recipe.supervision != "masks":
            train = with_masks(train, self.out / "pseudo_masks" / "SegmentationClass", real=self.real)
        chosen = [index for index in range(len(train)) if train.has_mask(index)]
        if not chosen:
            raise DataError(
                f"no image of split {self.recipe.data.train!r} has a mask; give masks=, or train from tags with a "
                "recipe such as cam"
            )
        self._train_model(subset(train, chosen), folder)

    def train_oracle(self, folder: Path) -> None:
        from maskwright.data import subset

        chosen = [index for index in range(len(self.train)) if self.train.has_mask(index)]
        if not chosen:
            raise DataError("oracle=true needs true masks in the training split, found none; set oracle=false")
        self._train_model(subset(self.train, chosen), folder)

    def _train_model(self, train: Any, folder: Path) -> None:
        from maskwright.pipeline.segment import train_segmenter

        recipe = self.recipe
        if recipe.model.pretrained == "classifier":
            start = {"pretrained": str(self.out / recipe.networks[0] / "model.safetensors")}
            recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=start)})
        train_segmenter(recipe, train, self.val, folder, self.device)

    def evaluate_segmenter(self, folder: Path) -> None:
        self._evaluate(self.out / "segmenter", folder)

    def evaluate_oracle(self, folder: Path) -> None:
        self._evaluate(self.out / "oracle", folder)

    def _evaluate(self, model_folder: Path, folder: Path) -> None:
        from maskwright.inference.load import load
        from maskwright.pipeline.segment import evaluate_to_folder

        predictor = load(model_folder, device=self.device)
        scores = evaluate_to_folder(predictor, self.val, self.recipe.inference, folder)
        if scores is not None:
            self.say(f"    mIoU {scores['miou']:.3f} on {scores['split']} ({scores['images']} images)")
        else:
            self.say("    no true masks in the evaluation split: predictions are written, nothing is scored")

    # After the stages.

    def judge_maps(self) -> None:
        """Write `seed_evaluation.json`, how good maps and pseudo-masks are stage by stage, where they are newer."""
        from maskwright.weak.seed_evaluation import FILE_NAME, evaluate_seeds, map_stages

        made, judged = self.out / "pseudo_masks" / "stage.json", self.out / FILE_NAME
        if judged.is_file() and judged.stat().st_mtime_ns > made.stat().st_mtime_ns:
            return
        threshold = read_json(made.with_name("scores.json"))["threshold"]
        settings = self.recipe.pseudo_masks.model_copy(update={"threshold": threshold})
        mine = {stage.name for stage in self.stages()}  # the folder may hold stages of an earlier recipe
        found = {name: folder for name, folder in map_stages(self.out).items() if name in mine}
        evaluate_seeds(self.train, found, settings, self.out)

    def finish(self) -> None:
        """Write `metrics.json`, the picture and the report, and print the result."""
        from maskwright.inference.load import load
        from maskwright.pipeline.expected import compare, compared_lines
        from maskwright.report import build_report, write_picture

        metrics: dict[str, Any] = {}
        pseudo = self.out / "pseudo_masks" / "scores.json"
        if self.recipe.supervision != "masks" and pseudo.is_file():
            metrics["pseudo_masks"] = {key: value for key, value in read_json(pseudo).items() if key != "sweep"}
        for key, name in (("segmenter", "evaluation"), ("oracle", "oracle_evaluation")):
            path = self.out / name / "metrics.json"
            if path.is_file() and (key != "oracle" or self.recipe.oracle):
                metrics[key] = read_json(path)
        map_stages = [stage.name for stage in self.stages() if (self.out / stage.name / "maps").is_dir()]
        judged = self.judged if map_stages else self.val
        compared = compare(self.recipe, self.out, judged, map_stages, metrics.get("segmenter"))
        if compared:
            metrics["expected"] = compared
        write_json(self.out / "metrics.json", metrics)
        predictor = load(self.out, device=self.device)
        picture = write_picture(self.out, self.train, predict=lambda image: predictor(image).mask)
        report = build_report(self.out, dataset_train=self.train, dataset_val=self.val)
        lines = summary_lines(metrics, self.recipe.supervision) + compared_lines(compared, self.recipe.source)
        for line in lines:
            self.say(line)
        self.say(f"picture: {picture}")
        self.say(f"report: {report}")


def summary_lines(metrics: dict[str, Any], supervision: str) -> list[str]:
    """The numbers of a run in words, each with what it was measured on."""
    lines = []
    pseudo, model, oracle = (metrics.get(key) for key in ("pseudo_masks", "segmenter", "oracle"))
    if pseudo and pseudo.get("miou") is not None:
        lines.append(
            f"pseudo-masks           mIoU {pseudo['miou']:.3f}  on {pseudo['split']} ({pseudo['images']} images)"
        )
    if model and model.get("miou") is not None:
        label = {"tags": "model from tags", "masks": "model from masks", "mixed": "model from both"}[supervision]
        lines.append(f"{label:<22} mIoU {model['miou']:.3f}  on {model['split']} ({model['images']} images)")
    if oracle and oracle.get("miou") is not None:
        lines.append(
            f"same, from true masks  mIoU {oracle['miou']:.3f}  on {oracle['split']} ({oracle['images']} images)"
        )
    return lines


def _data_facts(dataset: Any) -> dict[str, Any]:
    from maskwright.data.content import content_hash

    return {
        "source": {key: value for key, value in dict(dataset.source).items() if key != "saliency"},
        "labels": fingerprint(dataset.labels.to_dict()),
        "content": content_hash(dataset, ["images", "masks"]),
    }


def _silent(line: str) -> None:
    """Processes other than the first do not speak."""
