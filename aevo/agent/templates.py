"""Prompts from `aevo/templates`; a value missing from one is an error."""

from typing import Any

import jinja2

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("aevo", "templates"),
    undefined=jinja2.StrictUndefined,
    autoescape=False,  # plain text for a model, not HTML; who quotes foreign text escapes it
)


def render(template: str, **values: Any) -> str:
    """The template `<template>.md.j2` filled in."""
    return _ENVIRONMENT.get_template(f"{template}.md.j2").render(values)
