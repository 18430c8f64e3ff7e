"""`prompter completion`: each shell reads its script and completes commands, flags, keys and names."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from recipes.cli import main

SHELLS = ("bash", "zsh", "fish")

COMPLETIONS = {
    "prompter repl": ["replay"],
    "prompter data sh": ["show"],
    "prompter ceiling --dataset-": ["--dataset-option"],
    "prompter train --executor.multi": ["--executor.multimask"],
    "prompter train run.yaml --trainer.scale": ["--trainer.scale_rewards"],
    "prompter cold-start --auxiliary.pl": ["--auxiliary.place"],
    "prompter train run.yaml --executor.onnx_decoder gr": ["graph"],
    "prompter train run.yaml --executor.family s": ["sam2", "segment-anything"],
    "prompter train run.yaml --dataset.name synth": ["synthetic-aerial"],
    "prompter eval --executor mob": ["mobile-sam"],
    "prompter bench executor --benchmark synthetic-aerial:te": ["synthetic-aerial:test"],
    "prompter data check rrsis-d:tr": ["rrsis-d:train"],
    "prompter completion f": ["fish"],
}
"""What is typed before the tab -> what may stand in the last word's place."""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script of each shell, named after it."""
    pytest.importorskip("shtab")
    folder = tmp_path_factory.mktemp("completion")
    with pytest.MonkeyPatch.context() as patch:
        for shell in SHELLS:
            lines: list[str] = []
            patch.setattr("builtins.print", lambda text, lines=lines, **_: lines.append(text))
            assert main(["completion", shell]) == 0
            (folder / shell).write_text("\n".join(lines), encoding="utf-8")
    return folder


def needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")


def output(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_reads_its_script(shell: str, scripts: Path) -> None:
    needs(shell)
    assert output(shell, "-n", str(scripts / shell)) == ""


def test_old_names_and_commands_are_not_offered(scripts: Path) -> None:
    for shell in SHELLS:
        words = set(re.findall(r"[\w-]+", (scripts / shell).read_text(encoding="utf-8")))
        assert {"--dataset-option", "ceiling"} <= words or {"dataset-option", "ceiling"} <= words
        assert not {"--output", "--option", "--cache-dtype", "cache-dtype", "sft"} & words


def test_bash_completes(scripts: Path) -> None:
    lines = [f"source {scripts / 'bash'}"]
    for typed in COMPLETIONS:
        words = " ".join(f"'{word}'" for word in typed.split())
        count = len(typed.split()) - 1
        lines.append(
            f"COMP_WORDS=({words}); COMP_CWORD={count}; COMPREPLY=(); _shtab_prompter; echo ${{COMPREPLY[*]}}"
        )
    printed = output("bash", "--norc", "-c", "\n".join(lines)).splitlines()
    assert {
        typed: sorted(found.split()) for typed, found in zip(COMPLETIONS, printed, strict=True)
    } == COMPLETIONS
    # Words are told apart as in an interactive shell: NAME:SPLIT is one.
    assert ":" not in output("bash", "--norc", "-c", f'source {scripts / "bash"}; echo "$COMP_WORDBREAKS"')


def test_fish_completes(scripts: Path) -> None:
    needs("fish")
    asked = "; ".join(f"complete -C '{typed}'; echo =" for typed in COMPLETIONS)
    printed = output("fish", "--no-config", "-c", f"source {scripts / 'fish'}; {asked}").split("=\n")
    found = [sorted(line.split("\t")[0] for line in part.splitlines()) for part in printed[:-1]]
    assert dict(zip(COMPLETIONS, found, strict=True)) == COMPLETIONS


def test_zsh_completes(scripts: Path, tmp_path: Path) -> None:
    needs("zsh")
    asked = {typed: found[0] for typed, found in COMPLETIONS.items() if len(found) == 1}
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.environ.update(TERM="dumb", PS1="")
        os.execvp("zsh", ["zsh", "-f", "-i"])
    try:
        os.write(terminal, f'autoload -Uz compinit; compinit -u -D; eval "$(<{scripts / "zsh"})"\n'.encode())
        os.write(terminal, b"print rea''dy\n")
        heard = hear(terminal, "ready\r\n")
        for number, typed in enumerate(asked):
            # After the tab: to the start of the line, and print the line as it is then.
            os.write(terminal, f'{typed}\t\x01print -r -- "{number}<\x05>"\n'.encode())
            heard += hear(terminal, f"\n{number}<[^>]*>\r\n")
    finally:
        os.close(terminal)
        os.waitpid(child, 0)
    found = dict(re.findall(r"\n(\d+)<([^>]*?) ?>\r\n", heard))
    wanted = {
        str(number): " ".join([*typed.split()[:-1], word])
        for number, (typed, word) in enumerate(asked.items())
    }
    assert found == wanted


def hear(terminal: int, pattern: str) -> str:
    """Read a terminal until a pattern was seen, for half a minute at most."""
    heard, end = "", time.monotonic() + 30
    while not re.search(pattern, heard) and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            heard += os.read(terminal, 1 << 16).decode(errors="replace")
    return heard
