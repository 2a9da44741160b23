"""Models behind an OpenAI-compatible endpoint: vLLM, Ollama, hosted ones; the client is an optional extra."""

import base64
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from PIL import Image

from diffpo.annotators.captioners.roles import Interrupted, Speaker
from diffpo.core.refusal import Refusal, require_at_least

Content = str | list[dict[str, Any]]
T = TypeVar("T")


class Reply(NamedTuple):
    """What a chat model said.

    Attributes:
        text: empty if it refused to answer.
        ended: whether it had said all, or was cut at `max_tokens`.
        tokens: that it took, as the server counts; None if it does not say.
    """

    text: str
    ended: bool = True
    tokens: int | None = None


@dataclass(frozen=True, eq=False)
class Served(Speaker):
    """A chat model at an endpoint; needs `openai` (the extra `captions`).

    The key is what the client finds in OPENAI_API_KEY, so that it stands in no config; a server that wants none takes
    any text. Whether a seed gives the same text again is up to the server.

    Args:
        model: its name there.
        base_url: of the endpoint, e.g. http://localhost:8000/v1; null is that of OpenAI.
        parallel: requests at a time.
        tries: of a request that fails for a reason that may pass, with growing pauses.
        timeout: seconds until a request counts as failed.
        max_tokens: of a text; what is longer is cut off.
        temperature: of the draws.

    Raises:
        Refusal: when it is checked or first used, if it cannot be reached, or does not answer as such a server does.
            Neither the key nor a password in the address is told.
    """

    model: str
    base_url: str | None = None
    parallel: int = 8
    tries: int = 5
    timeout: float = 120.0
    max_tokens: int = 128
    temperature: float = 0.2

    @property
    def identity(self) -> dict[str, Any]:
        about = {"kind": type(self).__name__, "model_id": self.model, "max_tokens": self.max_tokens}
        return about | {"temperature": self.temperature} | self.asks

    @property
    def asks(self) -> dict[str, Any]:
        """What else the texts depend on, e.g. the instruction."""
        return {}

    @cached_property
    def library(self) -> Any:
        try:
            import openai
        except ImportError as error:
            raise Refusal(f"{type(self).__name__} needs openai: pip install 'diffpo[captions]'.") from error
        return openai

    @cached_property
    def client(self) -> Any:
        require_address(self.base_url or os.environ.get("OPENAI_BASE_URL"))
        try:
            return self.library.OpenAI(base_url=self.base_url, timeout=self.timeout, max_retries=self.tries - 1)
        except self.library.OpenAIError as error:
            raise Refusal(
                f"{type(self).__name__} finds no key: set OPENAI_API_KEY, to any text for a server that wants none."
            ) from error

    @property
    def place(self) -> str:
        """The model and where it is, without what only the server may know."""
        url = urlsplit(str(self.client.base_url))
        return f"{self.model} at {urlunsplit((url.scheme, url.netloc.rpartition('@')[2], url.path, '', ''))}"

    def said(self, error: BaseException | None) -> str:
        """An error in one line; servers repeat what they were sent, keys and passwords among it."""
        url = urlsplit(str(self.client.base_url))
        user, password = (unquote(part or "") for part in (url.username, url.password))
        keys = [self.client.api_key, password, base64.b64encode(f"{user}:{password}".encode()).decode()]
        keys += [value for _, value in parse_qsl(url.query)]
        text = " ".join(str(error).split())
        for key in sorted(filter(None, keys), key=len, reverse=True):
            for written in (key, quote(key, safe=""), quote(key), json.dumps(key)[1:-1]):
                text = text.replace(written, "***")
        return text[:200]

    def check(self) -> None:
        """A first request, as they will all be."""
        require_at_least(1, parallel=self.parallel, tries=self.tries, max_tokens=self.max_tokens)
        try:
            self.answer(self.sample, 0)
        except self.library.OpenAIError as error:
            raise Refusal(
                f"{self.place} does not answer ({self.said(error)}); check model, base_url and key, or run the same "
                "command when it answers again."
            ) from error

    @property
    def sample(self) -> Content:
        """A question to check with."""
        return "Say yes."

    def answers(self, questions: Sequence[Content], seeds: Sequence[int]) -> list[str]:
        """What the model says to each question; empty if it refuses one.

        Raises:
            Interrupted: if a question gets no answer; it holds the answers to the others.
        """
        return self.ask_all(self.tried, questions, seeds)

    def ask_all(self, ask: Callable[[Any, int], T], questions: Sequence[Any], seeds: Sequence[int]) -> list[T]:
        """What `ask` brings back of each question and its seed, several at a time.

        Raises:
            Interrupted: as `answers`.
        """
        with ThreadPoolExecutor(self.parallel, "asking") as pool:
            asked = [pool.submit(ask, *question) for question in zip(questions, seeds, strict=True)]
        errors = [future.exception() for future in asked]
        failed = [error for error in errors if isinstance(error, self.library.OpenAIError)]
        if failed:
            said = {i: future.result() for i, future in enumerate(asked) if errors[i] is None}
            raise Interrupted(
                f"{self.place} stopped answering ({self.said(failed[0])}); what it said is kept: run the same command "
                "again when it answers, it goes on where it stopped.",
                said,
            )
        return [future.result() for future in asked]

    def tried(self, content: Content, seed: int) -> str:
        return self.tried_reply([{"role": "user", "content": content}], seed).text

    def tried_reply(self, messages: Sequence[Mapping[str, Any]], seed: int) -> Reply:
        try:
            return self.reply(messages, seed)
        except (self.library.BadRequestError, self.library.UnprocessableEntityError):
            return Reply("")  # `check` saw that requests are well-formed, so this one's content is what is refused

    def answer(self, content: Content, seed: int) -> str:
        return self.reply([{"role": "user", "content": content}], seed).text

    @property
    def sent(self) -> dict[str, Any]:
        """What else is sent with each request."""
        return {}

    def reply(self, messages: Sequence[Mapping[str, Any]], seed: int) -> Reply:
        """What the model says in a conversation.

        Raises:
            Refusal: if the server does not answer as chat completions are answered.
        """
        reply = self.client.chat.completions.create(
            model=self.model,
            messages=list(messages),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            seed=seed,
            **self.sent,
        )
        try:
            choice = reply.choices[0]
            tokens = reply.usage.completion_tokens if reply.usage else None
            return Reply(choice.message.content or "", choice.finish_reason != "length", tokens)
        except (AttributeError, TypeError, LookupError) as error:
            raise Refusal(
                f"{self.place} does not answer as chat completions are answered; check that base_url ends as its "
                "documentation says, e.g. in /v1."
            ) from error


def encode_picture(picture: Image.Image) -> str:
    """The picture itself as an address."""
    held = BytesIO()
    picture.save(held, "PNG")
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"


def require_address(url: str | None) -> None:
    """Raise a Refusal, without repeating it, if a text is no address of a server; None is the usual one."""
    try:
        found = urlsplit(url or "http://localhost")
        fits = found.scheme in ("http", "https") and bool(found.hostname) and (found.port or 1) > 0
    except ValueError:
        fits = False
    if not fits:
        raise Refusal("base_url is no address of a server; write one like http://localhost:8000/v1.")
