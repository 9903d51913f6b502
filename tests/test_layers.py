"""Imports only go to lower layers, checked in the source text; every violation is named with its line.

    spine <- data | nn <- stats <- train | infer <- formats <- reporting <- evals | redteam | rl | gates | design
          <- rights | monitoring | review | rephrasing <- server <- cards | deploy <- stages | recipes <- life <- cli
          <- session

Packages of the same layer do not import one another, and neither do stages, which exchange artifacts. No two files
import each other, directly or through others.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Container, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STEPS = [("spine",), ("data", "nn"), ("stats",), ("train", "infer"), ("formats",), ("reporting",)]
STEPS += [("evals", "redteam", "rl", "gates", "design"), ("rights", "monitoring", "review", "rephrasing")]
STEPS += [("server",), ("cards", "deploy"), ("stages", "recipes"), ("life",), ("cli",), ("session",)]
SUBPACKAGES = {
    "data": [("",), ("world",), ("sources",), ("curation", "tokens")],
    "server": [("",), ("sites",), ("backends",), ("replica",), ("gateway",), ("service",)],
    "cards": [("",), ("life_page",)],
}
"""Layers inside a package, from the lowest; the empty name stands for the modules of the package itself."""
LAYER_INDEX = {part: height for height, step in enumerate(STEPS) for part in step}
SHARED_BY_STAGES = ("vita.stages.kinds", "vita.stages.training", "vita.stages.tuning")
READS_THE_ENVIRONMENT = "vita.spine.machine"
IMPORTS_TORCH_IN_FUNCTIONS = {"vita.spine.machine", "vita.spine.ranks"}
NAMES_REPORT_FILE = "vita.reporting"
RUN_BY_ALEMBIC = "vita.spine.migrations.env"
REGISTERS_COMMANDS = "app.add_typer"  # registers a group of commands, as a decorator registers a command
WITHOUT_TORCH = ("spine", "data")
TORCH_FAMILY = {"torch", "torchvision", "transformers", "accelerate", "peft", "safetensors.torch"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield the name and the syntax tree of every module of Vita."""
    for path in sorted((ROOT / "vita").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield name, ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield every imported module with its line; `from a import b` counts as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports name their module in full"
            base = node.module or ""
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def part_of(name: str) -> str | None:
    """Return `data` for `vita.data.tokens.chat_template`, and None for modules outside the layers."""
    root, *parts = name.split(".")
    return parts[0] if root == "vita" and parts and parts[0] in LAYER_INDEX else None


def upward_imports(name: str, tree: ast.Module) -> Iterator[str]:
    """Yield a sentence for every import in module `name` that does not go to a lower layer."""
    part = part_of(name)
    for target, line in imports(tree):
        target_part = part_of(target)
        location = f"{name}:{line}"
        if target.startswith("vita.testing"):
            yield f"{location} imports `{target}`: fakes are for the tests"
        elif part is None or target_part is None:
            continue
        elif target_part == part == "stages" and name != "vita.stages" and not is_shared_by_stages(name, target):
            yield f"{location} imports `{target}`: stages meet through artifacts, not through one another"
        elif target_part != part and LAYER_INDEX[target_part] == LAYER_INDEX[part]:
            yield f"{location} imports `{target}`: `{part}` and `{target_part}` are in the same layer"
        elif LAYER_INDEX[target_part] > LAYER_INDEX[part]:
            yield f"{location} imports `{target}`: `{part}` lies under `{target_part}`"


def upward_subpackage_imports(name: str, tree: ast.Module) -> Iterator[str]:
    """Yield a sentence for every import between subpackages that does not go to a lower layer."""
    package = part_of(name)
    layers = SUBPACKAGES.get(package or "")
    if not layers or name == f"vita.{package}":
        return
    heights = {part: height for height, layer in enumerate(layers) for part in layer}

    def subpackage(module: str) -> str:
        part = module.split(".")[2] if module.count(".") > 1 else ""
        return part if part in heights else ""

    for target, line in imports(tree):
        if part_of(target) != package:
            continue
        importer, imported = subpackage(name), subpackage(target)
        if importer != imported and heights[imported] >= heights[importer]:
            yield f"{name}:{line} imports `{target}`: `{package}.{importer}` lies under `{package}.{imported}`"


def test_no_files_import_each_other():
    names = {name: {target for target, _ in imports(tree)} for name, tree in modules()}
    edges = {
        name: {module for target in targets if (module := module_in(target, names)) and module != name}
        for name, targets in names.items()
    }
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def module_in(target: str, modules: Container[str]) -> str | None:
    """Return the module that an imported name is, or is defined in."""
    return next((name for name in (target, target.rpartition(".")[0]) if name in modules), None)


def is_shared_by_stages(name: str, target: str) -> bool:
    shared = any(module == target or target.startswith(f"{module}.") for module in SHARED_BY_STAGES)
    return shared or name in SHARED_BY_STAGES or target.startswith(f"{name}.")


def torch_imports(name: str, tree: ast.Module) -> Iterator[str]:
    """Yield a sentence for every import of a library based on torch in the layers without torch."""
    if part_of(name) in WITHOUT_TORCH:
        for target, line in imports(tree):
            if name in IMPORTS_TORCH_IN_FUNCTIONS and line not in {node.lineno for node in tree.body}:
                continue
            if {target, target.split(".")[0], target.rpartition(".")[0]} & TORCH_FAMILY:
                yield f"{name}:{line} imports `{target}`: `{part_of(name)}` works where torch is not installed"


def environment_accesses(name: str, tree: ast.Module) -> Iterator[str]:
    """Yield a sentence for every access to the environment outside of the module for it."""
    if name == READS_THE_ENVIRONMENT:
        return
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            has_access = node.attr in names and ast.unparse(node.value) == "os"
        elif isinstance(node, ast.ImportFrom):
            has_access = node.module == "os" and bool(names & {alias.name for alias in node.names})
        else:
            continue
        if has_access:
            yield f"{name}:{node.lineno} touches the environment: `{READS_THE_ENVIRONMENT}` alone reads it"


def import_side_effects(name: str, tree: ast.Module) -> Iterator[str]:
    """Yield a sentence for every statement with side effects at import."""
    if name == RUN_BY_ALEMBIC:
        return
    local_names = {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    local_names |= {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            root = node.value.func
            while isinstance(root, (ast.Attribute, ast.Call)):
                root = root.value if isinstance(root, ast.Attribute) else root.func
            if ast.unparse(node.value.func) == REGISTERS_COMMANDS:
                continue
            if not (isinstance(root, ast.Name) and root.id in local_names):
                yield f"{name}:{node.lineno} acts when it is imported: `{ast.unparse(node)[:60]}`"
        elif isinstance(node, (ast.For, ast.While, ast.With, ast.Assert, ast.Delete)):
            yield f"{name}:{node.lineno} acts when it is imported: `{ast.unparse(node)[:60]}`"


def unseeded_generators(name: str, tree: ast.Module) -> Iterator[str]:
    """Yield a sentence for every use of an unseeded random number generator."""
    allowed_names = {"random": {"Random"}, "np.random": {"default_rng", "Generator", "Philox", "PCG64", "SeedSequence"}}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, (ast.Name, ast.Attribute)):
            owner = ast.unparse(node.value).replace("numpy.", "np.")
            if owner in allowed_names and node.attr not in allowed_names[owner]:
                yield f"{name}:{node.lineno} uses `{owner}.{node.attr}`: chance comes from a generator with a seed"


def report_file_names(name: str, tree: ast.Module) -> Iterator[str]:
    """Yield a sentence for every module except one that names the report file in code; docstrings may name it."""
    if name == NAMES_REPORT_FILE:
        return
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in docstrings:
            continue
        if isinstance(node.value, str) and "report.json" in node.value:
            yield f"{name}:{node.lineno} names `report.json`: `{NAMES_REPORT_FILE}` alone names it"


RULES = [
    upward_imports,
    upward_subpackage_imports,
    torch_imports,
    environment_accesses,
    import_side_effects,
    unseeded_generators,
    report_file_names,
]


def test_every_module_follows_every_rule():
    violations = [sentence for name, tree in modules() for rule in RULES for sentence in rule(name, tree)]
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize(
    ("name", "source", "rule"),
    [
        ("vita.data.tokens.chat_template", "from vita.nn import transformer", upward_imports),
        ("vita.data.sources.files", "from vita.data.curation import filters", upward_subpackage_imports),
        ("vita.data.tokens.bpe", "from vita.data.curation.dedup import first_equal", upward_subpackage_imports),
        ("vita.server.replica.app", "from vita.server.gateway import keys", upward_subpackage_imports),
        ("vita.evals.task", "from vita.gates import policy", upward_imports),
        ("vita.nn.hf", "def f():\n    import vita.data.tokens.tokenizer", upward_imports),
        ("vita.train.loop", "from vita.infer.engine import Engine", upward_imports),
        ("vita.infer.engine", "if TYPE_CHECKING:\n    from vita.train import losses", upward_imports),
        ("vita.spine.plan", "from vita.stages.kinds import Model", upward_imports),
        ("vita.stages.sft", "from vita.stages import pretrain", upward_imports),
        ("vita.stages.sft", "from vita.cli import main", upward_imports),
        ("vita.data.tokens.chat_template", "from vita.testing import tiny", upward_imports),
        ("vita.data.tokens.shards", "def f():\n    import torch.nn", torch_imports),
        ("vita.spine.machine", "import torch", torch_imports),
        ("vita.data.tokens.shards", "from safetensors.torch import save_file", torch_imports),
        ("vita.nn.hf", "import os\nhome = os.environ['HOME']", environment_accesses),
        ("vita.nn.hf", "from os import getenv", environment_accesses),
        ("vita.train.loop", "import torch\ntorch.set_num_threads(1)", import_side_effects),
        ("vita.cards.reader", "def f(folder):\n    return folder / 'report.json'", report_file_names),
        ("vita.data.world", "import random\ndef f():\n    return random.choice([1, 2])", unseeded_generators),
        ("vita.data.world", "import numpy as np\ndef f():\n    np.random.seed(1)", unseeded_generators),
    ],
)
def test_a_violation_is_reported(name, source, rule):
    assert [sentence for sentence in rule(name, ast.parse(source)) if name in sentence]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        (
            "vita.stages.sft",
            "from vita.stages.kinds import Model\nfrom vita.train import loop\nfrom vita.spine import plan",
        ),
        ("vita.evals.multiple_choice", "from vita.infer.engine import Engine\nfrom vita.data import records"),
        ("vita.cli", "from vita.stages import sft\nfrom vita import __version__"),
        ("vita.spine.machine", "import os\nrank = os.environ.get('RANK')"),
        ("vita.data.curation.filters", "filters = Registry('filter')\nfilters.add('short')(None)"),
    ],
)
def test_an_import_from_a_lower_layer_is_allowed(name, source):
    tree = ast.parse(source)
    assert not [
        sentence
        for rule in (upward_imports, torch_imports, environment_accesses, import_side_effects, unseeded_generators)
        for sentence in rule(name, tree)
    ]
