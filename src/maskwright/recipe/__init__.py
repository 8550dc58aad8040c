"""Recipes: named settings of a run, and how they are read."""

from maskwright.recipe.load import (
    apply_override,
    build_recipe,
    dump_recipe,
    load_recipe,
    recipe_fields,
    recipe_file,
    recipe_names,
    recipe_text,
)
from maskwright.recipe.types import recipe_type

__all__ = [
    "apply_override",
    "build_recipe",
    "dump_recipe",
    "load_recipe",
    "recipe_fields",
    "recipe_file",
    "recipe_names",
    "recipe_text",
    "recipe_type",
]
