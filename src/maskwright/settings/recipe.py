"""A recipe: every setting that a run has, typed, but for those that one network or refinement has to itself."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from maskwright.settings.base import Settings
from maskwright.settings.training import DataSettings, InferenceSettings, LossSettings, ModelSettings, TrainSettings
from maskwright.settings.weak import ClassifierSettings, MaskSettings, SeedSettings


class Recipe(Settings):
    """One run, from data to report.

    A recipe that is loaded is of a type made from this one, with a block of settings for each network but `classifier`
    and for each refinement, under its word; see `maskwright.recipe.recipe_type`.
    """

    # The setting that names a block's method, `networks` or `refine`, by the name of the block.
    method_blocks: ClassVar[dict[str, str]] = {}

    name: str = Field("custom", description="also of the run folder, where out is not given")
    supervision: Literal["tags", "masks", "mixed"] = Field(
        "masks",
        description="tags: masks only for evaluation; masks: train on masks; mixed: train on a ground-truth mask where "
        "there is one, else on a pseudo-mask",
    )
    mixed_list: str | None = Field(
        None, description="file with the names of images whose ground-truth masks may be trained on (mixed); none: all"
    )
    out: str = Field("", description="run folder; default runs/<recipe name>")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps; auto: a GPU where there is one")
    random_seed: int = Field(0, description="of new weights, and of the order and augmentation of examples")
    data: DataSettings = DataSettings()
    networks: list[str] = Field(
        ["classifier"], description="networks trained on tags, each from the one before; maps come from the last"
    )
    classifier: ClassifierSettings = Field(
        ClassifierSettings(), description="its backbone is also that of the other networks trained on tags"
    )
    seeds: SeedSettings = SeedSettings()
    refine: list[str] = Field([], description="refinements of the maps, in this order, before masks are made")
    pseudo_masks: MaskSettings = MaskSettings()
    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    train: TrainSettings = TrainSettings()
    inference: InferenceSettings = InferenceSettings()
    fully_supervised: bool = Field(
        False, description="also train the same model on ground-truth masks, as the upper bound to compare with"
    )
    source: str = Field("", description="paper, table and row that the recipe follows, and how sure its numbers are")
    expected: dict[str, float] = Field(
        default_factory=dict,
        description="published mIoU, 0 to 1: `miou` of the model, by a stage's name (seeds, irn, crf, pseudo_masks) of "
        "its maps or masks; by a network's, its mean average precision of tags; other names are only shown",
    )
    tolerance: float = Field(
        0.01, ge=0, le=1, description="how far below the expected score, 0 to 1, still agrees with it"
    )
    expected_split: str | None = Field(
        None, description="split whose images the maps' expected scores are for; none: all that get maps"
    )
    notes: str = Field("", description="free text, kept with the run")

    @model_validator(mode="before")
    @classmethod
    def _short_data(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("data"), str):
            values = {**values, "data": {"root": values["data"]}}
        return values

    @model_validator(mode="after")
    def _words_fit(self) -> Recipe:
        if not self.networks:
            raise ValueError("networks is empty; maps come from at least one, such as networks=[classifier]")
        if len(set(self.networks)) < len(self.networks) or "classifier" in self.networks[1:]:
            raise ValueError(f"networks: each once, classifier first; found {self.networks}")
        if self.data.masks_are is not None and self.supervision != "masks":
            raise ValueError(
                f"data.masks_are={self.data.masks_are} trains on such masks and goes with supervision: masks; with "
                f"supervision: {self.supervision} masks must be ground truth"
            )
        for word in self.unused_blocks():
            if word in self.model_fields_set:
                place = self.method_blocks[word]
                raise ValueError(
                    f"settings of {word} are given, but {place}={getattr(self, place)} does not have it; add {word} to "
                    f"{place}"
                )
        return self

    def unused_blocks(self) -> list[str]:
        """Settings blocks of networks and refinements that this recipe does not name."""
        return [word for word, place in self.method_blocks.items() if word not in getattr(self, place)]
