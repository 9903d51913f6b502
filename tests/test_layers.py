"""Imports only go down the layers, checked in the source text; every violation is named with its line.

    spine <- data | nn <- stats <- train | infer <- formats <- reporting <- evals | redteam | rl | gates | design
          <- rights | monitoring | review <- server <- cards <- stages | recipes <- life <- cli <- session

Packages of one layer do not import one another; neither do stages, which meet through artifacts. No two files import
each other, directly or through others.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Container, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STEPS = [("spine",), ("data", "nn"), ("stats",), ("train", "infer"), ("formats",), ("reporting",)]
STEPS += [("evals", "redteam", "rl", "gates", "design"), ("rights", "monitoring", "review")]
STEPS += [("server",), ("cards",), ("stages", "recipes"), ("life",), ("cli",), ("session",)]
SUBPACKAGES = {
    "data": [("",), ("world",), ("sources",), ("curation", "tokens")],
    "server": [("",), ("replica",), ("gateway",), ("service",)],
    "cards": [("",), ("life_page",)],
}
"""Layers inside a package, from the lowest; the empty name stands for the modules of the package itself."""
HEIGHT = {part: height for height, step in enumerate(STEPS) for part in step}
SHARED_BY_STAGES = ("vita.stages.kinds", "vita.stages.training", "vita.stages.tuning")
READS_THE_ENVIRONMENT = "vita.spine.machine"
IMPORTS_TORCH_IN_FUNCTIONS = {"vita.spine.machine", "vita.spine.ranks"}
NAMES_REPORT_FILE = "vita.reporting"
RUN_BY_ALEMBIC = "vita.spine.migrations.env"
ENTERS_COMMANDS = "app.add_typer"  # what a decorator does for one command, this does for a group
WITHOUT_TORCH = ("spine", "data")
TORCH_FAMILY = {"torch", "torchvision", "transformers", "accelerate", "peft", "safetensors.torch"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    """The name and the syntax tree of every module of Vita."""
    for path in sorted((ROOT / "vita").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield name, ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every module that is imported anywhere in the file, with its line; `from a import b` counts as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports name their module in full"
            base = node.module or ""
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def part_of(name: str) -> str | None:
    """`data` for `vita.data.tokens.chat_template`; None for what stands outside the layers."""
    first, *rest = name.split(".")
    return rest[0] if first == "vita" and rest and rest[0] in HEIGHT else None


def climbs(name: str, tree: ast.Module) -> Iterator[str]:
    """One sentence for every import in module `name` that does not go down."""
    own = part_of(name)
    for target, line in imports(tree):
        other = part_of(target)
        spot = f"{name}:{line}"
        if target.startswith("vita.testing"):
            yield f"{spot} imports `{target}`: fakes are for the tests"
        elif own is None or other is None:
            continue
        elif other == own == "stages" and name != "vita.stages" and not meets_in_the_open(name, target):
            yield f"{spot} imports `{target}`: stages meet through artifacts, not through one another"
        elif other != own and HEIGHT[other] == HEIGHT[own]:
            yield f"{spot} imports `{target}`: `{own}` and `{other}` do not see each other"
        elif HEIGHT[other] > HEIGHT[own]:
            yield f"{spot} imports `{target}`: `{own}` lies under `{other}`"


def subpackage_climbs(name: str, tree: ast.Module) -> Iterator[str]:
    """One sentence for every import between subpackages that does not go down."""
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
    trees = dict(modules())
    targets = {name: {module_in(target, trees) for target, _ in imports(tree)} for name, tree in trees.items()}
    edges = {name: {target for target in found if target and target != name} for name, found in targets.items()}
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def module_in(target: str, modules: Container[str]) -> str | None:
    """The module that an imported name is, or is defined in."""
    return next((name for name in (target, target.rpartition(".")[0]) if name in modules), None)


def meets_in_the_open(name: str, target: str) -> bool:
    shared = any(module == target or target.startswith(f"{module}.") for module in SHARED_BY_STAGES)
    return shared or name in SHARED_BY_STAGES or target.startswith(f"{name}.")


def heavy(name: str, tree: ast.Module) -> Iterator[str]:
    """One sentence for every import of torch's family below the layers that calculate with it."""
    if part_of(name) in WITHOUT_TORCH:
        for target, line in imports(tree):
            if name in IMPORTS_TORCH_IN_FUNCTIONS and line not in {node.lineno for node in tree.body}:
                continue
            if {target, target.split(".")[0], target.rpartition(".")[0]} & TORCH_FAMILY:
                yield f"{name}:{line} imports `{target}`: `{part_of(name)}` works where torch is not installed"


def environment(name: str, tree: ast.Module) -> Iterator[str]:
    """One sentence for every place but one that reads or writes the environment."""
    if name == READS_THE_ENVIRONMENT:
        return
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found = node.attr in names and ast.unparse(node.value) == "os"
        elif isinstance(node, ast.ImportFrom):
            found = node.module == "os" and bool(names & {alias.name for alias in node.names})
        else:
            continue
        if found:
            yield f"{name}:{node.lineno} touches the environment: `{READS_THE_ENVIRONMENT}` alone reads it"


def actions(name: str, tree: ast.Module) -> Iterator[str]:
    """One sentence for every statement that does something while the module is imported."""
    if name == RUN_BY_ALEMBIC:
        return
    own = {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    own |= {t.id for node in tree.body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)}
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            root = node.value.func
            while isinstance(root, (ast.Attribute, ast.Call)):
                root = root.value if isinstance(root, ast.Attribute) else root.func
            if ast.unparse(node.value.func) == ENTERS_COMMANDS:
                continue
            if not (isinstance(root, ast.Name) and root.id in own):
                yield f"{name}:{node.lineno} acts when it is imported: `{ast.unparse(node)[:60]}`"
        elif isinstance(node, (ast.For, ast.While, ast.With, ast.Assert, ast.Delete)):
            yield f"{name}:{node.lineno} acts when it is imported: `{ast.unparse(node)[:60]}`"


def chance(name: str, tree: ast.Module) -> Iterator[str]:
    """One sentence for every use of a random number generator that nobody seeded."""
    seeded = {"random": {"Random"}, "np.random": {"default_rng", "Generator", "Philox", "PCG64", "SeedSequence"}}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value).replace("numpy.", "np.")
            if owner in seeded and node.attr not in seeded[owner]:
                yield f"{name}:{node.lineno} uses `{owner}.{node.attr}`: chance comes from a generator with a seed"


def report_file(name: str, tree: ast.Module) -> Iterator[str]:
    """One sentence for every place but one that names the file of a report in code; docstrings may name it."""
    if name == NAMES_REPORT_FILE:
        return
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in docstrings:
            continue
        if isinstance(node.value, str) and "report.json" in node.value:
            yield f"{name}:{node.lineno} names `report.json`: `{NAMES_REPORT_FILE}` alone names it"


RULES = [climbs, subpackage_climbs, heavy, environment, actions, chance, report_file]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps_to(rule):
    broken = [sentence for name, tree in modules() for sentence in rule(name, tree)]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("name", "source", "rule"),
    [
        ("vita.data.tokens.chat_template", "from vita.nn import transformer", climbs),
        ("vita.data.sources.files", "from vita.data.curation import filters", subpackage_climbs),
        ("vita.data.tokens.bpe", "from vita.data.curation.dedup import first_equal", subpackage_climbs),
        ("vita.server.replica.app", "from vita.server.gateway import keys", subpackage_climbs),
        ("vita.evals.task", "from vita.gates import policy", climbs),
        ("vita.nn.hf", "def f():\n    import vita.data.tokens.tokenizer", climbs),
        ("vita.train.loop", "from vita.infer.engine import Engine", climbs),
        ("vita.infer.engine", "if TYPE_CHECKING:\n    from vita.train import losses", climbs),
        ("vita.spine.plan", "from vita.stages.kinds import Model", climbs),
        ("vita.stages.sft", "from vita.stages import pretrain", climbs),
        ("vita.stages.sft", "from vita.cli import main", climbs),
        ("vita.data.tokens.chat_template", "from vita.testing import tiny", climbs),
        ("vita.data.tokens.shards", "def f():\n    import torch.nn", heavy),
        ("vita.spine.machine", "import torch", heavy),
        ("vita.data.tokens.shards", "from safetensors.torch import save_file", heavy),
        ("vita.nn.hf", "import os\nhome = os.environ['HOME']", environment),
        ("vita.nn.hf", "from os import getenv", environment),
        ("vita.train.loop", "import torch\ntorch.set_num_threads(1)", actions),
        ("vita.cards.reader", "def f(folder):\n    return folder / 'report.json'", report_file),
        ("vita.data.world", "import random\ndef f():\n    return random.choice([1, 2])", chance),
        ("vita.data.world", "import numpy as np\ndef f():\n    np.random.seed(1)", chance),
    ],
)
def test_a_planted_climb_is_named(name, source, rule):
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
def test_a_step_down_is_free(name, source):
    tree = ast.parse(source)
    assert not [sentence for rule in (climbs, heavy, environment, actions, chance) for sentence in rule(name, tree)]
