"""`prompter mcp` as a client starts it: over stdio with the shipped policy, and on the loopback by HTTP."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from envs.datasets import open_dataset
from tests.fixtures.training import ROOT

mcp = pytest.importorskip("mcp")
from mcp.client.stdio import StdioServerParameters, stdio_client  # noqa: E402  (needs mcp)

pytestmark = pytest.mark.smoke

WORDS = ["-m", "recipes.cli", "mcp", "scenes", "--policy", "shipped:small-policy"]
OPTIONS = ["--executor", "box"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `scenes/scene.png` in it, and a link that leads out of `scenes`."""
    place = tmp_path_factory.mktemp("mcp")
    (place / "scenes").mkdir()
    open_dataset("synthetic-aerial", "test")[3].load_image().save(place / "scenes" / "scene.png")
    (place / "scenes" / "link.png").symlink_to(ROOT / "docs" / "images" / "synthetic-aerial.png")
    return place


def test_the_sdks_client_asks_and_corrects_over_stdio(place: Path) -> None:
    """Whatever libraries print while the policy loads and answers, stdout stays the protocol's."""
    parameters = StdioServerParameters(
        command=sys.executable, args=[*WORDS, *OPTIONS], cwd=place, env=ENVIRONMENT
    )

    async def talk() -> None:
        with open(os.devnull, "w") as log:
            async with mcp.Client(stdio_client(parameters, errlog=log)) as client:
                assert client.server_info.name == "prompter"
                (scene,) = (
                    await client.call_tool("list", {"folder": str(place / "scenes")})
                ).structured_content["entries"]
                asked = {"image": scene["path"], "question": "the two largest buildings"}
                first = (await client.call_tool("segment", asked)).structured_content
                assert first["summary"] == "2 objects" and first["image_wh"] == [256, 256]
                change = {"result": first["result"], "object": 0, "boxes": [[76, 186, 106, 244]]}
                better = (await client.call_tool("refine", change)).structured_content
                assert better["objects"][0]["box"] == [76, 186, 106, 244]
                assert better["objects"][1:] == first["objects"][1:]
                [overlay] = (await client.read_resource(better["resources"][0])).contents
                assert overlay.mime_type == "image/jpeg" and len(overlay.blob) > 5000
                for path in ("link.png", "../scenes/link.png", str(ROOT / "docs/images/shipped-policy.jpg")):
                    refused = await client.call_tool("segment", {"image": path, "question": "roofs"})
                    assert refused.is_error and "outside the folders" in refused.content[0].text

    anyio.run(talk)


def malformed(generator: random.Random) -> bytes:
    """A line that is no proper call: no JSON, no JSON-RPC, no method, or nothing a method takes."""
    call: dict[str, Any] = {"jsonrpc": "2.0", "id": generator.randint(1, 999), "method": "tools/call"}
    odd = [None, 5, "", "a", [], {}, [{}], {"name": None}, {"name": "segment", "arguments": 5}, True, -1e300]
    kind = generator.randrange(6)
    if kind == 0:
        return bytes(generator.choice(range(14, 256)) for _ in range(generator.randint(1, 60)))
    if kind == 1:
        return json.dumps(call).encode()[: generator.randint(1, 40)]
    if kind == 2:
        return json.dumps({**call, "method": generator.choice(odd)}).encode()
    if kind == 3:
        return json.dumps({**call, "params": generator.choice(odd)}).encode()
    if kind == 4:
        arguments = {"image": generator.choice(odd), "question": generator.choice(odd)}
        return json.dumps({**call, "params": {"name": "segment", "arguments": arguments}}).encode()
    return json.dumps(
        {**call, "params": {"name": "segment", "arguments": {"image": "\ud800", "question": "\udfff"}}}
    ).encode()


def answer_to(server: subprocess.Popen[bytes], number: int) -> dict[str, Any]:
    """The answer with an id; every line before it is JSON, too."""
    assert server.stdout is not None
    for line in server.stdout:
        found = json.loads(line)
        if found.get("id") == number:
            return found
    raise AssertionError(f"the server ended, with {server.wait()}")


def test_200_malformed_lines_leave_the_server_alive(place: Path) -> None:
    generator = random.Random(1)
    with subprocess.Popen(
        [sys.executable, *WORDS, *OPTIONS],
        cwd=place,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as server:
        assert server.stdin is not None
        hello = {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        }
        for method, number, params in (
            ("initialize", 10_000, hello),
            ("notifications/initialized", None, {}),
        ):
            message = {"jsonrpc": "2.0", "method": method, "params": params}
            server.stdin.write(json.dumps({**message, **({"id": number} if number else {})}).encode() + b"\n")
        for _ in range(200):
            server.stdin.write(malformed(generator).replace(b"\n", b" ") + b"\n")
        status = {"jsonrpc": "2.0", "id": 10_001, "method": "tools/call", "params": {"name": "status"}}
        server.stdin.write(json.dumps(status).encode() + b"\n")
        server.stdin.flush()
        assert answer_to(server, 10_000)["result"]["serverInfo"]["name"] == "prompter"
        told = answer_to(server, 10_001)["result"]
        assert told["structuredContent"]["policy"] == "shipped:small-policy" and not told["isError"]
        server.stdin.close()  # the client hangs up
        assert server.wait(timeout=60) == 0


@pytest.fixture
def port(place: Path) -> Iterator[int]:
    """The port of a server by HTTP."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen(
        [sys.executable, *WORDS, *OPTIONS, "--http", str(port)],
        cwd=place,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stderr is not None
        assert server.stderr.readline() == f"prompter: serving http://127.0.0.1:{port}/mcp; Ctrl-C ends it\n"
        for _ in range(600):  # said just before it listens
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield port
        server.terminate()
        server.stderr.read()


def test_http_is_served_to_this_machine_only_and_foreign_hosts_are_refused(port: int) -> None:
    async def talk() -> None:
        async with mcp.Client(f"http://127.0.0.1:{port}/mcp") as client:
            assert not (await client.call_tool("status", {})).structured_content["loaded"]

    anyio.run(talk)
    # A page of another site, by DNS rebinding and by a plain request.
    for headers, status in (("Host: evil.example", 421), (f"Host: 127.0.0.1:{port}", 403)):
        with socket.create_connection(("127.0.0.1", port)) as raw:
            more = "Origin: http://evil.example\r\nContent-Type: application/json\r\nContent-Length: 2"
            raw.sendall(f"POST /mcp HTTP/1.1\r\n{headers}\r\n{more}\r\n\r\n{{}}".encode())
            assert raw.recv(100).startswith(f"HTTP/1.1 {status}".encode())
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = [line.split()[1] for line in table if line.split()[3] == "0A"]
    assert [one for one in listening if one.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]
