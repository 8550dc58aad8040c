"""A toy refinement: maps to a power."""

from pydantic import Field

from maskwright.runs.stages import Stage, effective
from maskwright.settings import Settings
from maskwright.weak.refine.refinement import Refinement
from maskwright.weak.refine.rewrite import rewrite_maps


class ToySettings(Settings):
    """A toy."""

    power: float = Field(2.0, gt=0, description="exponent of the maps")


def toy_stages(context, toy, source, suffix):
    def run(folder):
        rewrite_maps(
            context.train,
            context.out.maps(source),
            folder / "maps",
            lambda samples, maps: maps**toy.power,
            made_with={"toy": toy.power},
            size=context.recipe.seeds.size,
            title="toy",
        )

    return [Stage(f"sharpened{suffix}", "maps sharpened", run, effective(toy), (source,))]


TOY = Refinement("sharpened", ToySettings, toy_stages)
