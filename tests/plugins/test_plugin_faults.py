"""Faults of installed plugins: each is told with who, what and how to mend it, and breaks nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from distributions import Environment, write_wheel

pytestmark = pytest.mark.slow

BUILTIN = {"clip", "siglip", "eva_clip", "internvit", "timm", "torchvision"}
HEAD = "from vita_core import TowerSpec, hookimpl\nfrom vita_plugins.clip import processor, shape\nvita_api = 1\n"


def hook(body: str, signature: str = "vita_towers()", head: str = HEAD) -> str:
    return f"{head}\n@hookimpl\ndef {signature}:\n    {body}\n"


def tower(name: str, factory: str = "vita_plugins.clip.tower:ClipTower", more: str = "") -> str:
    return hook(f"return [TowerSpec({name!r}, 's', {factory!r}, shape, processor, {more})]")


# fault -> the module, what `vita plugins` must say of it, and how it is mended
FAULTS = {
    "import_error": ("import nothing_of_this_name\n", "ModuleNotFoundError", "pip install nothing_of_this_name"),
    "syntax_error": ("def broken(:\n", "SyntaxError: invalid syntax", "update or uninstall"),
    "exits": ("import sys\nsys.exit('no')\n", "SystemExit: no", "update or uninstall"),
    "no_api": ("x = 1\n", "`vita_api` is missing", "add `vita_api = 1` to the plugin module; or update or uninstall"),
    "wrong_api": (
        "vita_api = 99\n",
        "`vita_api` is not supported: 99. This vita-core supports 1",
        "update or uninstall",
    ),
    "signature": (hook("return []", "vita_towers(callback)"), "vita_towers(callback) Argument", "update or uninstall"),
    "misspelled": (
        hook("return []", "vita_tower()"),
        "unknown hook: vita_tower. Did you mean 'vita_towers'",
        "update or uninstall",
    ),
    "unmarked": ("vita_api = 1\ndef vita_towers():\n    return []\n", "@hookimpl", "update or uninstall"),
    "raises": (hook("raise OSError('disk')"), "OSError: disk", "update or uninstall"),
    "wrong_spec": (hook("return ['clip']"), "vita_towers returned a wrong value: 'clip'", "update or uninstall"),
    "string_types": (tower("x", more="model_types='x'"), "wrong type of model_types: 'x'", "update or uninstall"),
    "no_name": (tower(5), "TowerSpec 5: wrong type of name: 5", "update or uninstall"),
    "no_hub_ids": (tower("y", more="hub_ids=None"), "wrong type of hub_ids: None", "update or uninstall"),
    "no_shape": (
        tower("z").replace("shape, processor, )", "3, processor)"),
        "wrong type of shape: 3",
        "update or uninstall",
    ),
    "no_pattern": (
        hook(
            "from vita_core import ProjectorSpec; return [ProjectorSpec('p', 's', 'a:b', len, pattern='(')]",
            "vita_projectors()",
        ),
        "pattern is not a regular expression: '('",
        "update or uninstall",
    ),
    "odd_factory": (tower("odd", ".tower:T"), "is not a string of the form 'module:name'", "update or uninstall"),
    "twice_a": (tower("twice", more="model_types=('twice',)"), "by plugin twice_b of vita-fault-twice-b 1.0", "block"),
    "twice_b": (tower("twice", more="model_types=('twice',)"), "by plugin twice_a of vita-fault-twice-a 1.0", "block"),
    "no_module": (
        tower("lost", "fault_no_module.tower:T"),
        "does not exist: fault_no_module.tower",
        "update or uninstall",
    ),
    "no_class": (
        tower("astray", "vita_plugins.clip.tower:ClipTwer"),
        "Did you mean 'ClipTower'",
        "update or uninstall",
    ),
    "left_behind": ("", "ModuleNotFoundError", "`pip uninstall vita-fault-left-behind`, or install it again"),
    "cannot_say": (tower("dumb", more="recognises=lambda config: config['missing']"), "", ""),
}
STRICT = [fault for fault in FAULTS if fault != "cannot_say"]  # that one shows only when a checkpoint is opened


# metadata that cannot be read -> what is in the distribution's folder; `vita = ...` lies there in each
UNREADABLE = {
    "ghost-1.0.dist-info": {},  # what is left where METADATA and RECORD went
    "junk-1.0.dist-info": {"METADATA": "Name: junk\nVersion: 1.0\n", "entry_points.txt": "[vita]\nno equals sign\n"},
    "odd-1.0.dist-info": {"METADATA": "Name: caf\xe9\nVersion: 1.0\n"},
}


@pytest.fixture(scope="module")
def faulty(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with every fault installed."""
    folder = tmp_path_factory.mktemp("wheels")
    wheels = [
        write_wheel(
            folder,
            f"vita-fault-{fault.replace('_', '-')}",
            {f"fault_{fault}": source},
            f"[vita]\n{fault} = fault_{fault}\n[vita.commands]\nsay-{fault.replace('_', '-')} = fault_{fault}:app\n",
        )
        for fault, (source, _, _) in FAULTS.items()
    ]
    environment.install(*wheels)
    (environment.site / "fault_left_behind.py").unlink()
    return environment


@pytest.fixture
def clip_config(tmp_path: Path, golden: Path, tiny_llm: Path) -> Path:
    file = tmp_path / "clip.yaml"
    file.write_text(f"tower: {{weights: {golden / 'clip'}}}\nllm: {{weights: {tiny_llm}}}\n")
    return file


def only(fault: str) -> dict[str, str]:
    """The clip tower and one fault; the two that clash come together."""
    return {"VITA_PLUGINS_ONLY": "clip,twice_a,twice_b" if fault.startswith("twice") else f"clip,{fault}"}


@pytest.mark.parametrize("fault", STRICT)
@pytest.mark.reliability(
    door="plugins",
    fault="each way in which a plugin can be broken",
    expected="it is told and left out; all else works",
)
def test_a_fault_stays_its_own(faulty: Environment, fault: str, clip_config: Path) -> None:
    _, what, mend = FAULTS[fault]
    distribution = f"vita-fault-{fault.replace('_', '-')}"
    assert faulty.vita("--help", **only(fault)).returncode == 0
    towers = faulty.vita("towers", "--json", **only(fault))
    assert towers.returncode == 0
    assert "clip" in {row["name"] for row in json.loads(towers.stdout)}
    plan = faulty.vita("plan", clip_config, **only(fault))
    assert plan.returncode == 0, plan.stderr
    told = faulty.vita("plugins", "--json", **only(fault))
    assert told.returncode == 0
    (row,) = [row for row in json.loads(told.stdout) if row["name"] == fault]
    assert row["distribution"] == distribution
    text = " ".join([row["reason"], row["remedy"], *row["problems"]])
    assert what in text
    assert mend in text
    for arguments, more in ((["--strict-plugins"], {}), ([], {"VITA_STRICT_PLUGINS": "1"})):
        strict = faulty.vita(*arguments, "towers", **only(fault), **more)
        assert strict.returncode == 2
        assert f"error: plugin {fault} of {distribution} 1.0: " in strict.stderr
        assert what in strict.stderr
        assert "Traceback" not in strict.stderr


def test_all_of_them_together(faulty: Environment, clip_config: Path) -> None:
    towers = faulty.vita("towers", "--json")
    assert towers.returncode == 0, towers.stderr
    assert {row["name"] for row in json.loads(towers.stdout)} >= BUILTIN
    states = {row["name"]: row["status"] for row in json.loads(faulty.vita("plugins", "--json").stdout)}
    assert {states[name] for name in BUILTIN} == {"loaded"}
    assert {states[name] for name in FAULTS} == {"failed", "loaded"}
    assert faulty.vita("plan", clip_config).returncode == 0
    strict = faulty.vita("--strict-plugins", "towers").stderr
    assert all(f"error: plugin {fault} of " in strict for fault in STRICT)
    asked = faulty.vita("plan", clip_config, "--set", "tower.type=nowhere")
    assert asked.returncode == 2
    assert "exits of vita-fault-exits 1.0 (SystemExit: no)" in asked.stderr
    table = faulty.vita("plugins").stdout
    assert "vita-fault-exits" in table
    assert "SystemExit: no" in table


def test_looking_for_faults_imports_nothing_heavy(faulty: Environment) -> None:
    code = (
        "import sys\nfrom vita_core.plugins.registry import registry\n"
        "assert len(registry().complaints()) > 10\nassert not {'torch', 'transformers', 'timm'} & {*sys.modules}\n"
    )
    done = faulty.run("python", "-c", code)
    assert done.returncode == 0, done.stderr


def test_a_name_of_two_distributions(faulty: Environment, clip_config: Path, golden: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "twice"
    checkpoint.mkdir()
    config = json.loads((golden / "clip" / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "model_type": "twice"}))
    plan = ["plan", clip_config, "--set", f"tower.weights={checkpoint}"]
    bare = faulty.vita(*plan, "--set", "tower.type=twice", **only("twice_a"))
    assert bare.returncode == 2
    assert "vita-fault-twice-a 1.0 and vita-fault-twice-b 1.0. Try: `type: vita-fault-twice-a/twice`" in bare.stderr
    unsaid = faulty.vita(*plan, **only("twice_a"))
    assert unsaid.returncode == 2
    assert "Try: `type: vita-fault-twice-a/twice` or `type: vita-fault-twice-b/twice`" in unsaid.stderr
    said = faulty.vita(*plan, "--set", "tower.type=vita-fault-twice-b/twice", **only("twice_a"))
    assert said.returncode == 0, said.stderr
    assert "vita-fault-twice-b 1.0" in said.stdout


@pytest.mark.parametrize(("name", "fault"), [("lost", "no_module"), ("astray", "no_class")])
def test_a_factory_that_does_not_resolve_is_told_when_used(
    faulty: Environment, clip_config: Path, golden: Path, tmp_path: Path, name: str, fault: str
) -> None:
    (tmp_path / "config.json").write_text((golden / "clip" / "config.json").read_text().replace("clip_vision_", ""))
    change = ["--set", f"tower.type={name}", "--set", f"tower.weights={tmp_path}"]
    picture = golden / "pictures" / "wide.png"
    done = faulty.vita("encode", clip_config, picture, "--out", tmp_path / "o.safetensors", *change, **only(fault))
    assert done.returncode == 2
    assert f"plugin {fault} of vita-fault-{fault.replace('_', '-')} 1.0" in done.stderr
    assert "VITA_PLUGINS_BLOCK=" in done.stderr


def test_a_tower_that_cannot_say_what_it_opens(faulty: Environment, clip_config: Path) -> None:
    done = faulty.vita("plan", clip_config, **only("cannot_say"))
    assert done.returncode == 0
    assert done.stderr.startswith("warning: plugin cannot_say of vita-fault-cannot-say 1.0: ")
    assert "KeyError: 'missing'" in done.stderr


@pytest.mark.parametrize("fault", ["exits", "syntax_error", "left_behind", "raises"])
def test_a_failing_command(faulty: Environment, fault: str) -> None:
    """Its name is listed, and typing it tells why it cannot be run."""
    name = f"say-{fault.replace('_', '-')}"
    assert name in faulty.vita("--help").stdout
    done = faulty.vita(name)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: command {name!r}, plugin {name} of vita-fault-{fault.replace('_', '-')} 1.0: "
    )


@pytest.mark.parametrize("folder", UNREADABLE)
@pytest.mark.reliability(
    door="plugins",
    fault="metadata that cannot be read",
    expected="it is told and left out; all else works",
)
def test_metadata_that_cannot_be_read_stays_its_own(
    folder: str, environment: Environment, clip_config: Path, tmp_path: Path
) -> None:
    place = tmp_path / "site" / folder
    place.mkdir(parents=True)
    points = "[vita]\nghost = ghost_tower\n[vita.commands]\nboo = ghost_tower:app\n"
    for name, text in {"entry_points.txt": points, **UNREADABLE[folder]}.items():
        (place / name).write_text(text, encoding="latin-1")
    there = {"PYTHONPATH": str(place.parent), "VITA_PLUGINS_ONLY": f"clip,{folder.partition('-')[0]}"}
    assert environment.vita("--help", **there).returncode == 0
    towers = environment.vita("towers", "--json", **there)
    assert towers.returncode == 0, towers.stderr
    assert "clip" in {row["name"] for row in json.loads(towers.stdout)}
    if (
        "entry_points.txt" not in UNREADABLE[folder]
    ):  # such a one stops pydantic itself, which looks for its own plugins
        assert environment.vita("plan", clip_config, **there).returncode == 0
    (row,) = [r for r in json.loads(environment.vita("plugins", "--json", **there).stdout) if r["status"] == "failed"]
    assert row["distribution"] == folder
    assert "its metadata cannot be read" in row["reason"]
    assert f"delete {place} and install the package again" in row["remedy"]
    strict = environment.vita("--strict-plugins", "towers", **there)
    assert strict.returncode == 2
    assert folder in strict.stderr
    blocked = environment.vita("--no-plugin", folder.partition("-")[0], "--strict-plugins", "towers", **there)
    assert blocked.returncode == 0, blocked.stderr
