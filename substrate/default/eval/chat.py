"""Prompts and tokens of a model folder, read without transformers.

`tokenizer.json` is run by the `tokenizers` library and the chat template by jinja2 in a sandbox, as
transformers itself does, so texts and ids are the same while a process starts seconds sooner.
Training and evaluation both use this module: what is trained is what is asked.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Encoding, Tokenizer


class ChatError(ValueError):
    """The model folder lacks something, or its template cannot express a plain question."""


@dataclass(frozen=True)
class Chat:
    """Tokenizer and chat template of one model folder."""

    tokenizer: Tokenizer
    template: Template
    names: dict[str, str]  # bos_token, eos_token: what templates refer to
    eos_ids: tuple[int, ...]
    pad_id: int

    def prompt(self, user: str) -> str:
        """Text that asks `user`'s question and ends where the assistant is to speak."""
        return self._render([{"role": "user", "content": user}], generation=True)

    def answered(self, user: str, assistant: str) -> tuple[str, str]:
        """(prompt, completion) texts; the completion ends with the end-of-turn token."""
        prompt = self.prompt(user)
        messages = [
            {"role": "user", "content": user},
            {"role": "assistant", "content": assistant},
        ]
        whole = self._render(messages, generation=False)
        if not whole.startswith(prompt):
            # Templates with thinking open a block in the generation prompt only.
            return prompt, assistant + self.names["eos_token"]
        completion = whole[len(prompt) :]
        eos = self.names["eos_token"]
        end = completion.rfind(eos)
        # Some templates put a newline after the end of the turn: nothing generates it.
        return prompt, completion[: end + len(eos)] if end >= 0 else completion + eos

    def encode(self, texts: list[str]) -> list[Encoding]:
        """Token ids (and character offsets) of each text; special tokens only as written."""
        # An encoding run elsewhere may have left these on in tokenizer.json.
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        return list(self.tokenizer.encode_batch(texts, add_special_tokens=False))

    def decode(self, ids: list[int]) -> str:
        """Text of `ids` without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _render(self, messages: list[dict[str, str]], *, generation: bool) -> str:
        try:
            text = self.template.render(
                messages=messages, add_generation_prompt=generation, tools=None, **self.names
            )
        except TemplateError as error:
            raise ChatError(f"chat template: {error}") from error
        return str(text)


def load_chat(folder: Path) -> Chat:
    """Read the tokenizer and chat template of the model in `folder`.

    Raises:
        ChatError: a file is missing or unreadable, in one line.
    """
    config = _read_json(folder / "tokenizer_config.json")
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:
        raise ChatError(f"{folder / 'tokenizer.json'}: {error}") from error
    source = config.get("chat_template")
    if (folder / "chat_template.jinja").is_file():
        source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if not isinstance(source, str):
        raise ChatError(f"{folder}: no chat template")
    names = {key: _token_text(config.get(key)) for key in ("bos_token", "eos_token", "pad_token")}
    eos_ids = _eos_ids(folder, tokenizer, names["eos_token"])
    pad = tokenizer.token_to_id(names["pad_token"]) if names["pad_token"] else None
    return Chat(
        tokenizer=tokenizer,
        template=_environment().from_string(source),
        names=names,
        eos_ids=eos_ids,
        pad_id=eos_ids[0] if pad is None else pad,
    )


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment that transformers renders chat templates in."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    environment.globals["raise_exception"] = raise_exception
    return environment


def _eos_ids(folder: Path, tokenizer: Tokenizer, eos_token: str) -> tuple[int, ...]:
    """Ids that end an answer: generation_config.json's, else config.json's, else the token's."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        value = _read_json(path).get("eos_token_id") if path.is_file() else None
        if isinstance(value, int):
            return (value,)
        if isinstance(value, list) and value:
            return tuple(int(v) for v in value)
    by_token = tokenizer.token_to_id(eos_token)
    if by_token is None:
        raise ChatError(f"{folder}: no end-of-text token")
    return (by_token,)


def _token_text(value: Any) -> str:
    if isinstance(value, dict):  # AddedToken as older configs write it
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ChatError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise ChatError(f"{path}: not a JSON object")
    return value
