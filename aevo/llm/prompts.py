"""Prompts: templates of the package that sends them; a value missing from one is an error."""

import functools
from typing import Any

import jinja2


def render(package: str, template: str, **values: Any) -> str:
    """`<template>.md.j2` of `aevo/<package>/templates`, filled in."""
    return _environment(package).get_template(f"{template}.md.j2").render(values)


@functools.cache
def _environment(package: str) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader(f"aevo.{package}", "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # plain text for a model, not HTML; who quotes foreign text escapes it
    )
