"""What Tab offers, as shells ask for it: by the environment, from the command itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.app import App
from orchestrator.cli.main import cli
from tests.unit.fake_app import Stage
from tests.unit.test_cli_verbs import SHOP, VERBS, run


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    shutil.copy(SHOP, tmp_path)
    monkeypatch.chdir(tmp_path)
    stage = Stage(tmp_path)
    run(stage, "apply", "-f", "shop.yaml")
    return stage


def offered(stage: Stage, line: str) -> list[str]:
    """What bash is told after `orchestrator LINE` and Tab."""
    words = ["orchestrator", *line.split(" ")]
    env = {
        "_ORCHESTRATOR_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    done = CliRunner().invoke(cli, [], obj=stage.open, env=env, prog_name="orchestrator")
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "items"),
    [
        ("do", ["plain,doctor"]),
        ("logs w", ["plain,web-1", "plain,web-2"]),
        ("kill web-1 w", ["plain,web-2"]),
        ("logs container/d", ["plain,container/db-1/db"]),
        ("exec shop:m", ["plain,shop:migrate-1"]),
        ("delete ", ["plain,shop"]),
        ("ps s", ["plain,shop"]),
        ("top ", ["plain,db-1", "plain,migrate-1", "plain,shop", "plain,web-1", "plain,web-2"]),
        ("inspect network/f", ["plain,network/front"]),
        ("cp d", ["plain,db-1:"]),
        ("cp ./x w", ["plain,web-1:", "plain,web-2:"]),
        ("cp ./x", ["file,./x"]),
        ("apply -f sh", ["file,sh"]),
        ("kill --si", ["plain,--signal"]),
        ("completion ", ["plain,bash", "plain,zsh", "plain,fish"]),
        ("logs nothing", []),
    ],
)
def test_names_are_offered_where_they_belong(stage: Stage, line: str, items: list[str]) -> None:
    assert offered(stage, line) == items


def test_errors_never_reach_the_line(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(app: App) -> frozenset[str]:
        raise PermissionError("/var/lib/orchestrator")

    monkeypatch.setattr(App, "stacks", broken)
    assert offered(stage, "logs w") == offered(stage, "delete ") == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_name_of_ours_on_a_line_is_completed(verb: str) -> None:
    command = cli.get_command(cli.make_context("orchestrator", ["version"]), verb)
    assert command is not None
    for param in command.params:
        if param.name in ("ref", "refs", "stack", "stacks", "src", "dst", "paths"):
            given = getattr(param, "_custom_shell_complete", None)
            assert given is not None, (
                f"{verb} {param.name}: give it a shell_complete of arguments/completing.py"
            )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_what_the_shells_understand(stage: Stage, shell: str) -> None:
    script = run(stage, "completion", shell).stdout
    assert f"_ORCHESTRATOR_COMPLETE={shell}_complete" in script
    if shutil.which(shell):
        check = [shell, "--no-execute"] if shell == "fish" else [shell, "-n"]
        subprocess.run(check, input=script, text=True, check=True, timeout=30)


def test_bash_itself_completes(tmp_path: Path) -> None:
    bin = tmp_path / "orchestrator"
    bin.write_text(f"#!{sys.executable}\nfrom orchestrator.cli.main import main\nmain()\n")
    bin.chmod(0o755)
    script = """
    eval "$(orchestrator completion bash)"
    COMP_WORDS=(orchestrator comp) COMP_CWORD=1
    _orchestrator_completion orchestrator
    echo "${COMPREPLY[@]}"
    """
    env = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        ["bash", "-c", script], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("completion\n", "")
