"""An endpoint is asked by our protocol, is sent the image its coordinates refer to, and is retried."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from envs.sample import Sample
from eval.answerers import build_answerer
from eval.answerers.base import Looker, LookSettings
from eval.answerers.endpoint import EndpointSampler, EndpointSettings
from prompter.chat import SamplingRequest
from prompter.checkpoint import load_policy
from prompter.errors import UserError
from prompter.sampling.base import SamplingSettings
from prompter.types import FailureKind, ParseFailure, PromptSet
from tests.fixtures.endpoint import Reply, Server, said, sent_image, serving


@pytest.fixture()
def serve() -> Iterator[Callable[..., Server]]:
    with ExitStack() as running:
        yield lambda answer: running.enter_context(serving(answer))


@pytest.fixture(autouse=True)
def no_key_no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("eval.answerers.endpoint.time.sleep", waits.append)
    return waits


def sample(number: int, size: tuple[int, int] = (100, 60)) -> Sample:
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Sample(
        sample_id=f"s{number}",
        dataset="unit",
        split="test",
        image_id=f"i{number}",
        image_wh=size,
        load_image=lambda: Image.fromarray(pixels),
        query=f"query {number}",
        target=None,
    )


def test_asks_greedily_with_the_image_the_coordinates_refer_to(serve: Callable[..., Server]) -> None:
    server = serve(lambda number, body: said('<answer>[{"bbox_2d":[28,28,56,84]}]</answer>'))
    options = {"action_space": {"kind": "box"}, "image": {"side": 112}, "max_new_tokens": 64}
    answerer = build_answerer(f"openai:{server.url}#qwen", options)
    answer = answerer.answer([sample(1)])[0]
    answerer.close()
    body = server.seen[0]
    assert (
        body["model"] == "qwen" and body["temperature"] == 0 and body["max_tokens"] == 64 and body["n"] == 1
    )
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert "bbox_2d" in body["messages"][0]["content"][0]["text"]
    assert {"type": "text", "text": "query 1"} in body["messages"][1]["content"]
    assert sent_image(body).size == (112, 112)
    assert isinstance(answer.reading, PromptSet)
    assert answer.reading.instances[0].box == pytest.approx((25.0, 15.0, 50.0, 45.0))
    assert answer.tokens == 9
    assert "Authorization" not in server.headers[0]


def test_looks_are_asked_for_in_one_request_and_none_may_be_missing(serve: Callable[..., Server]) -> None:
    def answer(number: int, body: dict[str, Any]) -> Reply:
        status, headers, content = said("<answer>[]</answer>")
        return status, headers, {**content, "choices": content["choices"] * min(body["n"], 3)}

    server = serve(answer)
    answerer = build_answerer(f"openai:{server.url}#m")
    assert isinstance(answerer, Looker)
    looked = answerer.look([sample(1), sample(2)], LookSettings(3, temperature=0.7, top_p=0.9))
    assert [len(one) for one in looked.answers] == [4, 4]
    asked = [body for body in server.seen if body["n"] == 3]
    assert [(body["temperature"], body["top_p"]) for body in asked] == [(0.7, 0.9)] * 2
    assert len({body["seed"] for body in asked}) == 2
    with pytest.raises(UserError, match="gave 3 completions where 4 were asked for"):
        answerer.look([sample(1)], LookSettings(4))


def test_an_image_of_the_right_size_is_sent_without_loss(serve: Callable[..., Server]) -> None:
    server = serve(lambda number, body: said("<answer>[]</answer>"))
    one = sample(3, (112, 56))
    options = {"frame": "thousandths", "image": {"min_pixels": 1, "max_pixels": 10_000}}
    build_answerer(f"openai:{server.url}#m", options).answer([one])
    assert np.array_equal(np.asarray(sent_image(server.seen[0])), one.image_array())


def test_answers_come_back_in_order_and_bad_ones_are_data(serve: Callable[..., Server]) -> None:
    def answer(number: int, body: dict[str, Any]) -> Reply:
        query = next(p["text"] for p in body["messages"][1]["content"] if p["type"] == "text")
        if query == "query 4":
            return said('<answer>[{"bbox_2d":[1,', "length")
        return said(None) if query == "query 6" else said(f"<think>{query}</think><answer>[]</answer>")

    server = serve(answer)
    answers = build_answerer(f"openai:{server.url}#m", {"concurrency": 8}).answer(
        [sample(n) for n in range(12)]
    )
    for number, one in enumerate(answers):
        if number == 4:
            assert isinstance(one.reading, ParseFailure) and one.reading.kind is FailureKind.TRUNCATED
        elif number == 6:
            assert isinstance(one.reading, ParseFailure) and one.text == ""
        else:
            assert one.text.startswith(f"<think>query {number}<") and one.reading == PromptSet()


_BOX = '<answer>[{"bbox_2d":[28,28,56,84]}]</answer>'


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": _BOX}], _BOX),
        ([{"type": "text", "text": _BOX[:20]}, {"type": "text", "text": _BOX[20:]}], _BOX),
        ([{"type": "thinking", "thinking": "[]"}, {"type": "output_text", "text": _BOX}], _BOX),
        ([_BOX[:9], {"type": "text", "text": _BOX[9:]}, {"type": "text", "text": None}], _BOX),
        ([{"type": "image_url", "image_url": {"url": "data:,"}}], ""),
        ([], ""),
        (None, ""),
        ("", ""),
    ],
)
def test_content_in_parts_is_joined_and_nothing_is_an_empty_answer(
    serve: Callable[..., Server], content: Any, text: str
) -> None:
    server = serve(lambda number, body: said(content))
    options = {"action_space": {"kind": "box"}, "image": {"side": 112}}
    answer = build_answerer(f"openai:{server.url}#m", options).answer([sample(1)])[0]
    assert answer.text == text
    if text:
        assert isinstance(answer.reading, PromptSet) and len(answer.reading.instances) == 1
    else:
        assert isinstance(answer.reading, ParseFailure) and answer.reading.kind is FailureKind.NO_ANSWER


def test_a_message_without_content_is_an_empty_answer(serve: Callable[..., Server]) -> None:
    server = serve(lambda number, body: (200, {}, {"choices": [{"message": {"role": "assistant"}}]}))
    assert build_answerer(f"openai:{server.url}#m").answer([sample(1)])[0].text == ""


@pytest.mark.parametrize(
    "content", [5, True, {"text": "[]"}, [5], [[]], [{"text": "[]"}], [{"type": "text", "text": 5}]]
)
def test_content_of_another_shape_is_one_sentence(serve: Callable[..., Server], content: Any) -> None:
    server = serve(lambda number, body: said(content))
    with pytest.raises(UserError, match=r"answered with a (part of )?content that") as caught:
        build_answerer(f"openai:{server.url}#m").answer([sample(1)])
    assert server.url in str(caught.value) and "\n" not in str(caught.value)


def test_special_tokens_in_a_question_are_sent_as_text(serve: Callable[..., Server]) -> None:
    server = serve(lambda number, body: said("<answer>[]</answer>"))
    one = replace(sample(1), query="<image>\nwhat does <|image_pad|> show?</s>")
    build_answerer(f"openai:{server.url}#m").answer([one])
    parts = server.seen[0]["messages"][1]["content"]
    assert [part["type"] for part in parts] == ["image_url", "text"]
    assert parts[1]["text"] == "what does < |image_pad|> show?< /s>"


def test_overload_is_waited_out(serve: Callable[..., Server], no_key_no_waiting: list[float]) -> None:
    replies: list[Reply] = [
        (503, {}, {}),
        (429, {"Retry-After": "7"}, {}),
        (200, {}, b"<html>"),
        said("<answer>[]</answer>"),
    ]
    server = serve(lambda number, body: replies[number - 1])
    answer = build_answerer(f"openai:{server.url}#m").answer([sample(1)])[0]
    assert answer.reading == PromptSet() and len(server.seen) == 4
    assert no_key_no_waiting == [0.5, 7.0, 2.0]


def test_patience_ends(serve: Callable[..., Server]) -> None:
    server = serve(lambda number, body: (500, {}, {"error": "out of memory"}))
    with pytest.raises(UserError, match=r"status 500.*out of memory.*give the command again"):
        build_answerer(f"openai:{server.url}#m", {"retries": 2}).answer([sample(1)])
    assert len(server.seen) == 3


def test_a_refused_request_is_not_repeated(serve: Callable[..., Server]) -> None:
    server = serve(lambda number, body: (404, {}, {"error": "no such model"}))
    with pytest.raises(UserError, match="no such model"):
        build_answerer(f"openai:{server.url}#m").answer([sample(1)])
    assert len(server.seen) == 1


def test_nobody_there() -> None:
    with pytest.raises(UserError, match="did not answer"):
        build_answerer("openai:http://127.0.0.1:9/v1#m", {"retries": 1}).answer([sample(1)])


@pytest.mark.parametrize("reply", [{"choices": []}, {"choices": [{}]}, {"object": "error"}, []])
def test_what_is_no_completion_is_said(serve: Callable[..., Server], reply: Any) -> None:
    server = serve(lambda number, body: (200, {}, reply))
    with pytest.raises(UserError, match=r"no chat completion|gave 0 completions"):
        build_answerer(f"openai:{server.url}#m").answer([sample(1)])


def test_fields_can_be_added_and_removed(serve: Callable[..., Server]) -> None:
    server = serve(lambda number, body: said("<answer>[]</answer>"))
    options = {"body": {"max_completion_tokens": 99, "max_tokens": None, "temperature": None}}
    build_answerer(f"openai:{server.url}#m", options).answer([sample(1)])
    body = server.seen[0]
    assert body["max_completion_tokens"] == 99 and "max_tokens" not in body and "temperature" not in body


def test_a_served_checkpoint_of_ours_is_asked_and_decoded_as_in_process(serve: Callable[..., Server]) -> None:
    server = serve(lambda number, body: said("<answer>[]</answer>"))
    policy = load_policy("shipped:small-policy")
    one = sample(5)
    bodies: list[dict[str, Any]] = [{}, {"repetition_penalty": None, "logit_bias": {}}]
    for body in bodies:
        options = {"protocol_from": "shipped:small-policy", "body": body}
        build_answerer(f"openai:{server.url}#m", options).answer([one])
    request = policy.request(one.query, one.load_image())
    asked, changed = server.seen
    assert np.array_equal(np.asarray(sent_image(asked)), np.asarray(request.image))
    kinds = [[part["type"] for part in message["content"]] for message in asked["messages"]]
    assert kinds == [["text"], ["text", "image_url"]]  # this policy reads the question first
    assert asked["messages"][0] == request.messages[0] and asked["max_tokens"] == 96
    vocabulary = policy.processor.tokenizer.get_vocab()
    never = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    assert asked["logit_bias"] == {str(vocabulary[token]): -100 for token in never}
    assert asked["repetition_penalty"] == 1.0  # servers would take it from generation_config.json
    assert changed["logit_bias"] == {} and "repetition_penalty" not in changed


def test_a_key_travels_only_where_it_is_safe(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    server = serve(lambda number, body: said("<answer>[]</answer>"))
    build_answerer(f"openai:{server.url}#m", {"api_key_env": "MY_KEY"}).answer([sample(1)])
    assert server.headers[0]["Authorization"] == "Bearer secret"
    with pytest.raises(UserError, match="unencrypted to example"):
        build_answerer("openai:http://example.invalid/v1#m", {"api_key_env": "MY_KEY"})


def test_nothing_else_of_the_environment_is_sent(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere.invalid/v1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # not for addresses of this machine
    server = serve(lambda number, body: said("<answer>[]</answer>"))
    build_answerer(f"openai:{server.url}#m", {"api_key_env": "MY_KEY"}).answer([sample(1)])
    assert "secret" not in str(server.headers[0])


def test_a_key_that_no_header_can_hold_is_refused_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sec\nret")
    with pytest.raises(UserError, match="MY_KEY holds a line break") as caught:
        build_answerer("openai:http://127.0.0.1/v1#m", {"api_key_env": "MY_KEY"})
    assert "sec" not in str(caught.value)


def test_an_endpoint_that_moved_is_not_followed(serve: Callable[..., Server]) -> None:
    away = serve(lambda number, body: said("<answer>[]</answer>"))
    server = serve(lambda number, body: (307, {"Location": f"{away.url}/chat/completions"}, {}))
    with pytest.raises(UserError, match="status 307"):
        build_answerer(f"openai:{server.url}#m").answer([sample(1)])
    assert not away.seen


def test_an_answer_that_takes_too_long_is_not_waited_for(serve: Callable[..., Server]) -> None:
    asked = threading.Event()

    def answer(number: int, body: dict[str, Any]) -> Reply:
        asked.wait(5 if number == 1 else 0)
        return said("<answer>[]</answer>")

    server = serve(answer)
    options = {"timeout_seconds": 0.3, "retries": 1}
    assert build_answerer(f"openai:{server.url}#m", options).answer([sample(1)])[0].reading == PromptSet()
    assert len(server.seen) == 2
    asked.set()


@pytest.mark.parametrize(
    "address, options, message",
    [
        ("http://127.0.0.1/v1", {}, "names no model"),
        ("ftp://127.0.0.1/v1#m", {}, "not an address"),
        ("http://127.0.0.1/v1#m", {"frme": "absolute"}, "Did you mean 'frame'"),
        ("http://127.0.0.1/v1#m", {"retries": -1}, "retries"),
    ],
)
def test_bad_addresses_and_options(address: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_answerer(f"openai:{address}", options)


def test_what_an_endpoint_cannot_do(serve: Callable[..., Server]) -> None:
    sampler = EndpointSampler("http://127.0.0.1/v1", "m", EndpointSettings())
    request = SamplingRequest([], Image.new("RGB", (28, 28)))
    with pytest.raises(ValueError, match="log-probabilities"):
        sampler.sample([request], SamplingSettings(), logprobs=True)
