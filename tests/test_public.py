"""The package is documented and usable: docstrings, described settings, clear names, declared dependencies."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import inspect
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import vita
from vita.spine.config import Settings
from vita.spine.stage import read_stage

ROOT = Path(__file__).resolve().parents[1]
SLOW_TO_IMPORT = {"torch", "transformers", "tokenizers", "pyarrow", "datasets", "alembic"}


def sources(folder: str = "vita") -> list[Path]:
    """Return every source file of Vita, or of another folder of the project."""
    return sorted((ROOT / folder).rglob("*.py"))


def modules() -> list[str]:
    """Return every importable module of Vita; the environment of Alembic runs only in Alembic."""
    infos = pkgutil.walk_packages(vita.__path__, "vita.")
    return sorted(module.name for module in infos if module.name != "vita.spine.migrations.env")


def settings() -> Iterator[type[Settings]]:
    """Yield every class of settings of every module."""
    for name in modules():
        for _, value in inspect.getmembers(importlib.import_module(name), inspect.isclass):
            if issubclass(value, Settings) and value.__module__ == name:
                yield value


@dataclass(frozen=True)
class SourceFile:
    """The facts about a source file that the tests compare, so that each file is parsed once."""

    path: str
    """Relative to the project."""
    has_docstring: bool
    classes: frozenset[str]
    bound_names: tuple[str, ...]
    """Names of assignments, loop variables and arguments."""
    question_lines: tuple[int, ...]
    """Lines of docstrings that begin with a question word."""
    packages: frozenset[tuple[str, bool]]
    """Imported third-party packages, and whether they are imported at the top."""

    @classmethod
    def of(cls, path: Path) -> SourceFile:
        """Parse a file."""
        tree = ast.parse(path.read_text())
        nodes = list(ast.walk(tree))
        return cls(
            str(path.relative_to(ROOT)),
            bool(ast.get_docstring(tree)),
            frozenset(node.name for node in nodes if isinstance(node, ast.ClassDef)),
            tuple(bound_names(nodes)),
            tuple(question_lines(nodes)),
            frozenset(third_party_imports(tree, nodes)),
        )


@functools.cache
def source_files(folder: str = "vita") -> list[SourceFile]:
    """Return every source file of a folder of the project."""
    return [SourceFile.of(path) for path in sources(folder)]


def bound_names(nodes: list[ast.AST]) -> Iterator[str]:
    """Yield the names of assignments, loop variables and arguments."""
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg) and node.arg not in ("self", "cls"):
            yield node.arg


def question_lines(nodes: list[ast.AST]) -> Iterator[int]:
    """Yield the lines of docstrings that begin with a question word; literals below fields are descriptions."""
    for node in nodes:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for statement in node.body:
                if (
                    isinstance(statement, ast.Expr)
                    and isinstance(statement.value, ast.Constant)
                    and re.match(r"(What|Which|How|Whether|Who|Where) ", str(statement.value.value))
                ):
                    yield statement.lineno


def third_party_imports(tree: ast.Module, nodes: list[ast.AST]) -> Iterator[tuple[str, bool]]:
    """Yield the third-party packages that a file imports, and whether it imports them at the top."""
    for node in nodes:
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported = [node.module or ""]
        else:
            continue
        for name in {name.split(".")[0] for name in imported} - {"vita", "__future__"} - sys.stdlib_module_names:
            yield name, node in tree.body


def test_every_module_has_a_docstring():
    undocumented = [file.path for file in source_files() if not file.has_docstring]
    assert not undocumented, f"without a docstring: {undocumented}"


CONTRACT_CLASSES = {"Config", "Inputs"}
"""Classes that every stage module defines, as the contract of stages requires."""


def test_each_public_class_name_is_defined_in_one_module():
    files: dict[str, set[str]] = {}
    for file in source_files():
        for name in file.classes:
            if not name.startswith("_"):
                files.setdefault(name, set()).add(file.path)
    duplicates = {name: sorted(paths) for name, paths in files.items() if len(paths) > 1}
    assert not {name: paths for name, paths in duplicates.items() if name not in CONTRACT_CLASSES}


PRONOUNS_AND_PARTICIPLES = re.compile(
    "one|own|told|found|given|asked|said|kept|place|made|wanted|learnt|seen|drawn|shown|held|whole|aside|apart|begun|"
    "ends|settled|minded|moved|ranked|taken|tried|aims|ahead|off|others|each|way|both|here|there"
)
"""Names that do not describe a value."""


@pytest.mark.parametrize("folder", ["vita", "tests"])
def test_names_are_nouns(folder):
    names = [(file.path, name) for file in source_files(folder) for name in file.bound_names if name != "_"]
    odd = [(path, name) for path, name in names if PRONOUNS_AND_PARTICIPLES.fullmatch(name)]
    assert len(odd) <= 0.005 * len(names), f"{len(odd)} of {len(names)} names are pronouns or participles: {odd}"


@pytest.mark.parametrize("folder", ["vita", "tests"])
def test_docstrings_start_with_a_statement(folder):
    openers = [f"{file.path}:{line}" for file in source_files(folder) for line in file.question_lines]
    assert not openers, f"docstrings that begin with a question word: {openers}"


def test_every_setting_has_a_description():
    undocumented = {
        f"{group.__module__}.{group.__qualname__}.{name}"
        for group in settings()
        for name, field in group.model_fields.items()
        if not (field.description or "").strip()
    }
    assert not undocumented, f"without a description: {sorted(undocumented)}"


def test_every_stage_has_a_version_a_summary_and_frozen_inputs():
    from vita.life import own_stages

    for name in own_stages():
        module = importlib.import_module(f"vita.stages.{name}")
        stage = read_stage(name, module)
        assert stage.version >= 1
        assert stage.summary.endswith("."), f"{name}: its docstring opens with a sentence"
        assert module.Inputs.__dataclass_params__.frozen, f"{name}: inputs are frozen"


def test_the_command_line_imports_no_slow_library():
    program = "import json, sys; import vita.cli; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert not SLOW_TO_IMPORT & set(json.loads(run.stdout))


@pytest.mark.slow
def test_importing_a_module_prints_nothing_and_writes_nothing(tmp_path):
    program = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    process = subprocess.run([sys.executable, "-c", program, *modules()], cwd=tmp_path, capture_output=True, check=True)
    assert (process.stdout, list(tmp_path.iterdir())) == (b"", [])


# -- dependencies


def _plain(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _import_names(names: list[str]) -> set[str]:
    """Return the import names of the named distributions."""
    distributions = {_plain(name) for name in names}
    packages = {
        module for module, owners in _installed().items() if distributions & {_plain(owner) for owner in owners}
    }
    import_names = {"pydantic": "pydantic_core", "mlflow-skinny": "mlflow"}
    return (
        packages
        | {name.replace("-", "_") for name in distributions}
        | {import_names.get(name, name) for name in distributions}
    )


@functools.cache
def _installed() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def test_every_import_is_a_declared_dependency():
    project = _project()
    core = _import_names(project["dependencies"])
    runtime = set(project["optional-dependencies"]) - {"all", "test", "dev", "docs", "bench"}
    extra = _import_names([requirement for name in runtime for requirement in project["optional-dependencies"][name]])
    undeclared = {
        f"{file.path} imports {name}" + (" at the top" if is_at_top else "")
        for file in source_files()
        for name, is_at_top in file.packages
        if name not in core and (is_at_top or name not in extra)
    }
    assert not undeclared, f"neither a dependency nor an extra imported where it is used: {sorted(undeclared)}"


def test_every_dependency_is_used():
    used = {package for file in source_files() for package, _ in file.packages}
    used |= {text for path in sources() for text in re.findall(r'import_module\("(\w+)"\)', path.read_text())}
    unused = [requirement for requirement in _project()["dependencies"] if not _import_names([requirement]) & used]
    assert not unused, f"nothing imports {unused}"


def test_every_dependency_has_a_reason_and_a_tested_version():
    project = _project()
    extras = project["optional-dependencies"]
    distributions = {
        _plain(requirement)
        for requirement in [
            *project["dependencies"],
            *(requirement for extra in extras.values() for requirement in extra),
        ]
    }
    distributions -= {"vita-lm"}
    reasons = (ROOT / "docs" / "dependencies.md").read_text().lower()
    assert not [name for name in sorted(distributions) if f"`{name}`" not in reasons]
    pinned_names = {
        _plain(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    }
    requirements = [*project["dependencies"], *extras["test"], *extras["dev"], *extras["docs"], *extras["bench"]]
    assert not [
        requirement
        for requirement in map(_plain, requirements)
        if requirement not in pinned_names and requirement != "vita-lm"
    ]


def test_constraints_are_exact_versions():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert not [line for line in lines if not line.startswith("#") and not re.fullmatch(r"[\w.-]+==[\w.]+", line)]
