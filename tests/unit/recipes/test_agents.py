"""`prompter mcp` without its process: the SDK's client in memory, paths that lead out, and wrong calls."""

from __future__ import annotations

import json
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from PIL import Image

from envs.executors import ExecutorConfig, open_executor
from prompter import Prompter
from prompter.errors import InfrastructureError, UserError
from recipes.agents.desk import FORMS, Desk
from recipes.agents.roots import Roots
from recipes.cli import main
from tests.unit.recipes.test_api import Scripted

mcp = pytest.importorskip("mcp")
from recipes.agents.server import build_server, skill  # noqa: E402  (needs mcp)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that may be read, with an image in it, beside one that may not."""
    inside, outside = tmp_path / "in", tmp_path / "out"
    (inside / "deep").mkdir(parents=True)
    outside.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    for path in (inside / "a.png", inside / "deep" / "b.png", outside / "secret.png"):
        Image.fromarray(pixels).save(path)
    (inside / "notes.txt").write_text("no image")
    (inside / ".hidden.png").write_bytes(b"")
    (inside / "link.png").symlink_to(outside / "secret.png")
    (inside / "linked").symlink_to(outside)
    (inside / "own.png").symlink_to(inside / "a.png")
    os.mkfifo(inside / "pipe.png")
    return inside


@pytest.fixture
def desk(folder: Path) -> Iterator[Desk]:
    def open_prompter() -> Prompter:
        return Prompter(Scripted(), open_executor(ExecutorConfig(family="box")), "box", policy="scripted")

    with Desk(Roots([folder]), open_prompter, policy="scripted", executor="box", keeps=3) as opened:
        yield opened


@asynccontextmanager
async def connected(desk: Desk) -> AsyncIterator[Any]:
    async with mcp.Client(build_server(desk)) as client:
        yield client


async def told(client: Any, tool: str, **arguments: Any) -> dict[str, Any]:
    """Structured content of a call that succeeds."""
    done = await client.call_tool(tool, arguments)
    assert not done.is_error, done.content[0].text
    return done.structured_content


async def refusal(client: Any, tool: str, **arguments: Any) -> str:
    """What a call that is refused says."""
    done = await client.call_tool(tool, arguments)
    assert done.is_error
    return done.content[0].text


def test_an_agent_finds_an_image_asks_looks_and_corrects(desk: Desk, folder: Path) -> None:
    async def talk() -> None:
        async with connected(desk) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert set(tools) == {"status", "list", "segment", "refine"}
            assert all(tool.annotations.read_only_hint and tool.output_schema for tool in tools.values())
            assert client.instructions and "overlay.jpg" in client.instructions

            before = await told(client, "status")
            assert (before["loaded"], before["results"], before["saves_to"]) == (False, [], None)
            assert (await told(client, "list"))["entries"][0]["path"] == str(folder)
            entries = (await told(client, "list", folder=str(folder)))["entries"]
            assert [Path(one["path"]).name for one in entries] == ["a.png", "deep", "own.png"]
            part = await told(client, "list", folder=str(folder), offset=1, limit=1)
            assert (len(part["entries"]), part["total"], part["next_offset"]) == (1, 3, 2)

            first = await told(client, "segment", image="a.png", question="roofs")
            assert (first["result"], first["summary"], first["image_wh"]) == ("r1", "2 objects", [40, 30])
            assert first["objects"][0] == {"box": [2, 3, 10, 12], "score": 1.0, "area_px": 72}
            assert (
                first["prompts"][1]["positive_points"] == [[25, 15]] and first["reasoning"] == "two of them"
            )
            better = await told(client, "refine", result="r1", boxes=[[0, 0, 4, 4]])
            assert (better["result"], better["edited"], len(better["objects"])) == ("r2", True, 3)
            after = await told(client, "status")
            assert after["loaded"] and after["counters"]["encodes"] == 1
            assert [one["result"] for one in after["results"]] == ["r1", "r2"]

            assert [uri.rpartition("/")[2] for uri in better["resources"]] == list(FORMS)
            read = {uri: (await client.read_resource(uri)).contents[0] for uri in better["resources"]}
            assert [one.mime_type for one in read.values()] == list(FORMS.values())
            whole = json.loads(read["prompter://results/r2/result.json"].text)
            assert [one["box"] for one in whole["objects"]] == [one["box"] for one in better["objects"]]

            refused = await told(client, "segment", image="own.png", question="nothing")
            mumbled = await told(client, "segment", image="deep/b.png", question="mumble")
            assert refused["refused"] and refused["objects"] == [] and refused["failure"] is None
            assert mumbled["failure"].startswith("no_answer: ") and not mumbled["refused"]
            said = await refusal(client, "refine", result="r1", boxes=[[0, 0, 1, 1]])
            assert "There is no result 'r1'; the last 3 are kept: r2, r3, r4." in said

    anyio.run(talk)


@pytest.mark.parametrize(
    "path",
    [
        *("../out/secret.png", "deep/../../out/secret.png", "link.png", "linked/secret.png", "/etc/hostname"),
        *("../out/gone.png", "linked/gone.png", "/gone", "..", "deep/../.."),
    ],
)
def test_a_path_that_leads_out_is_refused_and_nothing_is_told_of_it(desk: Desk, path: str) -> None:
    """Whether it is there or not, the sentence is the same; and nothing was read or loaded."""
    for look in (desk.roots.file, desk.roots.folder):
        with pytest.raises(UserError) as caught:
            look(path)
        assert str(caught.value) == f"{path!r} is outside the folders that may be read: {desk.roots}."
    with pytest.raises(UserError, match="is outside"):
        desk.segment(path, "roofs")
    assert not desk.status().loaded


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("gone.png", "There is no 'gone.png' in the folders"),
        ("deep", "'deep' is a folder; name an image"),
        ("pipe.png", "is no plain file"),
        ("a\0.png", "is not a path"),
        ("\ud800", "is not a path"),
        ("x" * 4000, "There is no"),
        ("notes.txt", "image .*notes.txt: "),
    ],
)
def test_what_is_no_image_is_refused_in_a_sentence(desk: Desk, path: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        desk.segment(path, "roofs")


def test_two_folders_are_looked_through_in_order(folder: Path, tmp_path: Path) -> None:
    roots = Roots([folder / "deep", tmp_path / "out"])
    assert roots.file("secret.png") == tmp_path / "out" / "secret.png"
    assert roots.file(str(folder / "deep" / "b.png")) == folder / "deep" / "b.png"
    with pytest.raises(UserError, match="outside"):
        roots.file(str(folder / "a.png"))
    for wrong in ([], [folder / "a.png"]):
        with pytest.raises(UserError, match="folder"):
            Roots(wrong)


WRONG = [
    ("segmnt", {}, "There is no tool 'segmnt'. Did you mean 'segment'?"),
    ("segment", {"image": "a.png"}, "question"),
    ("segment", {"image": 5, "question": "roofs"}, "image"),
    ("segment", {"image": "a.png", "qestion": "roofs"}, "takes no 'qestion'. Did you mean 'question'?"),
    ("segment", {"image": "a.png", "question": "  "}, "text that is not empty"),
    ("segment", {"image": "a.png", "question": ""}, "question"),
    ("refine", {"result": "r9", "points": [[1, 2]]}, "There is no result 'r9'"),
    ("refine", {"result": "r1"}, "needs boxes, points or prompts"),
    ("refine", {"result": "r1", "boxes": [[1, 2]]}, "numbers [k, 4]"),
    ("refine", {"result": "r1", "boxes": [[0, 0, 1, 1]] * 257}, "boxes"),
    ("refine", {"result": "r1", "object": 7, "boxes": [[0, 0, 1, 1]]}, "There is no object 7"),
    ("list", {"limit": 0}, "limit"),
    ("list", {"folder": "a.png"}, "is a file; name a folder"),
]


def test_a_wrong_call_gets_a_sentence_and_200_of_any_kind_leave_the_server_alive(desk: Desk) -> None:
    generator = random.Random(0)
    odd = [None, True, -1, 10**30, 1e308, "", "a.png", "r1", "\0", "../..", [], [[]], {}, [["a"]], "x" * 9999]

    async def talk() -> None:
        async with connected(desk) as client:
            await told(client, "segment", image="a.png", question="roofs")
            for tool, arguments, said in WRONG:
                assert said in await refusal(client, tool, **arguments)
            names = ["image", "question", "result", "boxes", "points", "labels", "object", "folder", "limit"]
            refused = 0
            for _ in range(200):
                tool = generator.choice(["status", "list", "segment", "refine", "x", ""])
                arguments = {
                    name: generator.choice(odd) for name in generator.sample(names, generator.randint(1, 4))
                }
                done = await client.call_tool(tool, arguments)
                refused += done.is_error
                assert not done.is_error or "A fault of the server" not in done.content[0].text
                assert not done.is_error or len(done.content[0].text) > 20
            assert refused >= 190
            assert (await told(client, "segment", image="a.png", question="roofs"))["summary"] == "2 objects"
            for uri in ("prompter://results/r0/mask.png", "prompter://results/..%2f/mask.png", "x://y"):
                with pytest.raises(mcp.MCPError):
                    await client.read_resource(uri)

    anyio.run(talk)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("There is no policy 'x'."), "There is no policy 'x'."),
        (InfrastructureError("An actor died."), "An actor died."),
        (ZeroDivisionError("a secret"), "A fault of the server (ZeroDivisionError)"),
    ],
)
def test_what_goes_wrong_behind_a_call_is_told_and_the_next_call_tries_again(
    folder: Path, error: Exception, said: str
) -> None:
    tries = []

    def open_prompter() -> Prompter:
        tries.append(1)
        raise error

    async def talk() -> None:
        with Desk(Roots([folder]), open_prompter, policy="x", executor="box") as desk:
            async with connected(desk) as client:
                for _ in range(2):
                    text = await refusal(client, "segment", image="a.png", question="roofs")
                    assert said in text and "a secret" not in text
                assert not (await told(client, "status"))["loaded"]

    anyio.run(talk)
    assert len(tries) == 2


def test_with_out_results_are_saved_and_those_of_an_earlier_server_stay(folder: Path, tmp_path: Path) -> None:
    def open_prompter() -> Prompter:
        return Prompter(Scripted(), open_executor(ExecutorConfig(family="box")), "box")

    names = []
    for _ in range(2):
        with Desk(Roots([folder]), open_prompter, policy="x", executor="box", out=tmp_path / "saved") as desk:
            answer = desk.segment("a.png", "roofs")
            assert answer.saved == str(tmp_path / "saved" / answer.result)
            assert sorted(os.listdir(answer.saved)) == sorted(FORMS)
            assert desk.file(answer.result, "mask.png").startswith(b"\x89PNG")
            names.append(answer.result)
    assert names == ["r1", "r2"]


def test_the_command_says_what_it_needs(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["mcp", "--skill"]) == 0
    page = capsys.readouterr().out
    assert page == skill() and page.startswith("---\nname: prompter\n")
    assert [name for name in ("status", "list", "segment", "refine", *FORMS) if f"`{name}`" not in page] == []
    for words, said in (
        ([str(folder)], "needs --policy"),
        (["--policy", "shipped:small-policy"], "at least one folder"),
        ([str(folder / "a.png"), "--policy", "x"], "There is no folder"),
        ([str(folder), "--policy", "x", "--executor", "bx"], "Did you mean 'box'"),
        ([str(folder), "--policy", "x", "--http", "99999"], "--http 99999: 127.0.0.1:99999 cannot be served"),
    ):
        assert main(["mcp", *words]) == 2
        assert said in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "mcp.server.mcpserver", None)
    assert main(["mcp", str(folder), "--policy", "x"]) == 2
    assert "pip install 'prompter-rl[mcp]'" in capsys.readouterr().err
