"""Packaging. The recipe folders lie beside the package; a wheel carries them inside it, as `bioclip_jax/_recipes/`."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
RECIPES = {
    "configs": ("*.py",),
    "data": ("*.py",),
    "evals": ("*.py",),
    "launch": ("*.sh", "*.yaml", "*.md", "Dockerfile"),
}


class BuildWithRecipes(build_py):
    """Copies the recipes into the package. An editable install copies nothing: it reads the folders themselves."""

    def _recipes(self) -> list[tuple[str, str]]:
        target = Path(self.build_lib, "bioclip_jax", "_recipes")
        return [
            (str(source), str(target / source.relative_to(ROOT)))
            for folder, patterns in RECIPES.items()
            for pattern in patterns
            for source in sorted((ROOT / folder).glob(pattern))
        ]

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self._recipes():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return super().get_outputs(include_bytecode) + [target for _, target in self._recipes()]


setup(cmdclass={"build_py": BuildWithRecipes})
