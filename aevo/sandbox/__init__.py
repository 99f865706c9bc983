"""Confines one command."""

from aevo.sandbox.model import Confinement, Kind, SandboxError, Setting
from aevo.sandbox.probe import failure, offered, probe, require
from aevo.sandbox.supervise import STOPPED, usage
from aevo.sandbox.wrapping import wrap

__all__ = ["STOPPED", "Confinement", "Kind", "SandboxError", "Setting", "failure", "offered",
           "probe", "require", "usage", "wrap"]
