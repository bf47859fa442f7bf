"""Every line of code is in the room it belongs to."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "gnesf_core").rglob("*.py"))
STAGES = sorted((ROOT / "stages").glob("*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports escape the code digest"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
            assert "*" not in {alias.name for alias in node.names}, path
    return found


# Modules of stages that serve several of them.
SHARED = ("cli", "gpus", "job_log", "learning", "plot_style", "published_tables",
          "scene_inputs")  # fmt: skip
# For people, and for rules that start others.
WITHOUT_RULE = ("launch", "status")


@pytest.mark.parametrize("path", CORE, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_knows_no_workflow_and_no_command_line(path):
    barred = {"snakemake", "argparse", "yaml", "matplotlib", "stages", "pandas"}
    assert not {name.split(".")[0] for name in imports(path)} & barred


@pytest.mark.parametrize("path", STAGES, ids=lambda p: p.stem)
def test_a_stage_imports_no_other_stage(path):
    ours = {name for name in imports(path) if name.startswith("stages.")}
    allowed = {f"stages.{name}" for name in SHARED}
    assert {".".join(name.split(".")[:2]) for name in ours} <= allowed
    assert "snakemake" not in imports(path)


def test_stages_that_compute_without_torch_do_not_wait_for_it():
    # Importing it takes seconds, of each of thousands of jobs.
    stages = (
        "cache_prior describe_run evaluate_geometry evaluate_prior evaluate_scene "
        "export_labels extract_frames fuse_features fuse_targets pack_submission "
        "plot_classes plot_geometry plot_prior plot_scene plot_training "
        "print_paper_table rank_scenes status summarize summarize_geometries "
        "summarize_priors summarize_views verify view_scene"
    )
    recipes = "geometries.fused_depth priors.folder priors.labels priors.noisy_labels"
    needless = [f"stages.{name}" for name in stages.split()]
    needless += [f"gnesf_core.{name}" for name in recipes.split()]
    program = "import sys; sys.modules['torch'] = None\n"
    program += "".join(f"import {name}\n" for name in needless)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_rule_is_a_stage_with_log_and_benchmark():
    stages = {path.stem for path in STAGES} - {"__init__", *SHARED, *WITHOUT_RULE}
    used = set()
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        for rule in re.split(r"\n(?=rule )", path.read_text()):
            call = re.search(r"python -m stages\.(?:launch \S+ )?(\w+)", rule)
            if not call:
                continue
            used.add(call.group(1))
            assert re.match(rf"rule {call.group(1)}:", rule), path
            assert f"logs/{call.group(1)}" in rule
            assert call.group(1) == "verify" or f"benchmarks/{call.group(1)}" in rule
    assert used == stages


def test_every_value_in_a_shell_command_is_quoted():
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        for command in re.findall(r'shell:\s+((?:\s*".*?"\n)+)', path.read_text()):
            for name in re.findall(r"{(.*?)}", command):
                quoted = name.endswith(":q") or name in (
                    "params.labels",  # built by shlex.join
                    "params.weights",  # so is this
                    "params.targets",  # and this
                    "params.options",  # and this
                    "params.comparable",  # and this
                    "params.truth",  # and this
                    "params.costs",  # and this
                    "params.start",  # and this
                    "params.judged",  # and this
                    "params.intrinsics",  # and this
                    "params.capture",  # and this
                    "params.labelled",  # an integer
                )
                assert quoted, f"{path.name}: {name}"


def test_no_package_initialiser_does_anything():
    for path in ROOT.glob("*/**/__init__.py"):
        if ".venv" not in path.parts:
            assert path.read_text() == "", path


def test_conda_and_pip_users_get_the_same_environment():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = [d for d in environment["dependencies"] if isinstance(d, dict)][0]["pip"]
    assert "python=3.11" in environment["dependencies"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pip == pins
    assert all(re.match(r"[\w-]+==[\w.]+(; .*)?$", line) for line in pins), pins
    locked = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().lower().splitlines()
        if "==" in line
    )
    for line in pins:
        name, version = line.split(";")[0].strip().lower().split("==")
        assert locked.get(name, version) == version, f"{name} is pinned twice"


def test_nothing_loads_pickles_or_runs_shells():
    harmful = (
        r"allow_pickle=True|pickle\.load|weights_only=False|yaml\.load\("
        r"|os\.system|shell=True"
    )
    for path in [*CORE, *STAGES, *sorted((ROOT / "workflow").rglob("*.py"))]:
        assert not re.search(harmful, path.read_text()), path
