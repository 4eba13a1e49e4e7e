"""The import table and the form of DESIGN, read from the source with `ast`."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted([*ROOT.glob("dlx/**/*.py"), *ROOT.glob("experiments/**/*.py"), *ROOT.glob("configs/**/*.py")])
STANDARD = sys.stdlib_module_names

ARRAYS = {"jax", "jaxtyping", "numpy"}
DLX = {  # module or package of dlx -> what it may import of dlx, what from outside
    "core": (set(), {"jax", "jaxtyping"}),
    "metrics": ({"core"}, ARRAYS | {"optax"}),
    "losses": ({"core"}, ARRAYS | {"optax"}),
    "optimizers": ({"core"}, ARRAYS | {"optax"}),
    "sharding": ({"core"}, ARRAYS),
    "agreement": (set(), ARRAYS),
    "checksums": (set(), ARRAYS),
    "preemption": (set(), {"jax"}),
    "lock": ({"agreement"}, {"jax"}),
    "checkpoint": ({"core", "agreement", "checksums"}, ARRAYS | {"orbax"}),
    "feed": ({"cluster", "core"}, ARRAYS),
    "cluster": (set(), {"jax"}),
    "report": ({"core"}, ARRAYS | {"tensorboardX", "tqdm"}),
    "figures": ({"core"}, {"jaxtyping", "matplotlib", "numpy"}),
    "nn": ({"core"}, {"flax", "jax", "jaxtyping"}),
    "saliency": (set(), {"jax", "jaxtyping"}),
    "streaming": (set(), {"jaxtyping", "numpy"}),
    "layers": ({"layers"}, {"flax", "jax", "jaxtyping"}),
    "models": ({"core", "nn", "layers", "losses", "models"}, {"flax", "jax", "jaxtyping"}),
    "pretrained": (
        {"core", "models", "pretrained"},
        {"huggingface_hub", "jax", "jaxtyping", "numpy", "safetensors", "torch"},
    ),
    "data": (
        {"data"},
        {
            "PIL",
            "absl",
            "grain",
            "importlib_resources",
            "jaxtyping",
            "numpy",
            "sklearn",
            "tensorflow_datasets",
            "tokenizers",
            "tqdm",
        },
    ),
    "train": (
        {"core", "metrics", "sharding", "checkpoint", "feed", "lock", "preemption"},
        {"jax", "optax"},
    ),
    "evaluate": ({"core", "metrics", "feed"}, {"jax", "numpy"}),
    "decoding": ({"core"}, {"jax", "jaxtyping"}),
    "lora": ({"core"}, {"jax"}),
    "configuration": (set(), {"absl", "ml_collections"}),
    "host": (set(), set()),
}


def imports(file):
    """Yields (module, imported name or None) for every import of a file, wherever it stands."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from ((node.module, alias.name) for alias in node.names)


def parts_of_dlx(module, name):
    """Returns which word of the table an import of dlx means."""
    words = [*module.split(".")[1:], *([name] if name else [])]
    return words[0] if words else ""


@pytest.mark.parametrize("file", [f for f in FILES if f.is_relative_to(ROOT / "dlx")], ids=str)
def test_dlx_imports_only_what_the_table_allows(file):
    part = file.relative_to(ROOT / "dlx").parts[0].removesuffix(".py")
    inside, outside = DLX[part] if part != "__init__" else (set(), set())
    for module, name in imports(file):
        top = module.split(".")[0]
        if top == "dlx":
            assert parts_of_dlx(module, name) in inside, f"{part} must not import {module} {name}"
        else:
            assert top in outside or top in STANDARD, f"{part} must not import {module}"


def test_tfds_and_orbax_stand_behind_their_doors():
    for file in FILES:
        used = {module.split(".")[0] for module, _ in imports(file)}
        relative = str(file.relative_to(ROOT))
        if "orbax" in used:
            assert relative == "dlx/checkpoint.py"
        if "tensorflow_datasets" in used:
            assert relative.startswith("dlx/data/builders/") or relative == "dlx/data/sources.py"
        assert "tensorflow" not in used


def test_experiments_do_not_import_each_other_nor_flax_nor_orbax_and_configs_import_nothing():
    applications = {f.stem for f in ROOT.glob("experiments/*.py")} - {
        "__init__",
        "__main__",
        "runs",
        "applications",
    }
    for file in FILES:
        for module, name in imports(file):
            top = module.split(".")[0]
            if file.is_relative_to(ROOT / "configs"):
                assert top in {"ml_collections"} or top in STANDARD
            if file.parent == ROOT / "experiments" and file.stem in applications:
                assert top not in {"flax", "orbax", "tensorflow_datasets"}
                assert module != "experiments" and not module.startswith("experiments."), (
                    f"{file}: {module} {name}"
                )


def test_importing_the_loop_needs_neither_flax_nor_tfds_nor_orbax():
    code = (
        "import sys, dlx.train; heavy = {'flax', 'tensorflow_datasets', 'orbax', 'ml_collections', 'grain', "
        "'matplotlib', 'sklearn', 'tensorflow'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_importing_weights_needs_neither_torch_nor_the_hub():
    code = (
        "import sys, dlx.pretrained; heavy = {'torch', 'huggingface_hub', 'safetensors'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def public(tree):
    """Yields a file's public functions and classes, and the public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                        yield inner


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_public_thing_has_a_docstring_whose_first_line_is_a_sentence(file):
    tree = ast.parse(file.read_text())
    for node in [tree, *public(tree)]:
        if isinstance(node, ast.Module) and not node.body:
            continue
        text = ast.get_docstring(node)
        name = getattr(node, "name", "the module")
        assert text, f"{file}: {name} has no docstring"
        assert text.splitlines()[0].rstrip().endswith((".", "?")), f"{file}: {name}: {text.splitlines()[0]!r}"


def test_the_source_holds_no_leftovers():
    # written in pieces, so that this file does not find itself
    wrong = re.compile(
        "TO" + "DO|FIX" + r"ME|no" + r"qa\s*$|type: ig" + r"nore\s*$|PRNG" + "Key", re.MULTILINE
    )
    for file in [*FILES, *ROOT.glob("tests/**/*.py")]:
        assert not wrong.search(file.read_text()), file
        assert "utils" not in file.stem


def test_meshes_are_made_in_one_place_with_auto_axes():
    makers = [f for f in FILES if "make_mesh(" in f.read_text()]
    assert [f.name for f in makers] == ["sharding.py"]


def test_what_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = " ".join(
        [
            *project["dependencies"],
            *(name for extra in project["optional-dependencies"].values() for name in extra),
        ]
    )
    packages = {"PIL": "pillow", "absl": "absl-py", "sklearn": "scikit-learn", "orbax": "orbax-checkpoint"}
    for file in FILES:
        for module, _ in imports(file):
            top = module.split(".")[0]
            if top in STANDARD or top in {"dlx", "experiments", "torch", "torchvision", "transformers"}:
                continue
            package = packages.get(top, top)
            assert re.search(rf"\b{re.escape(package).replace('_', '[-_]')}\b", named), f"{file}: {top}"
