"""What each tool of a worker is called with: the schema that an agent sees, whoever it is."""

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat


class Arguments(BaseModel):
    """Base of all tool arguments: unknown names are refused, not ignored."""

    model_config = ConfigDict(extra="forbid")


class ListFiles(Arguments):
    path: str = Field(".", description="folder, relative to the fork")


class ReadFile(Arguments):
    path: str
    first_line: int = Field(1, ge=1)
    lines: int = Field(400, ge=1, le=2000)
    numbers: bool = Field(True, description="false: the bare text, without line numbers")


class Search(Arguments):
    pattern: str = Field(description="Python regular expression")
    path: str = "."


class WriteFile(Arguments):
    path: str
    content: str


class EditFile(Arguments):
    path: str
    find: str = Field(min_length=1, description="exact text, must occur once")
    replace: str


class ApplyMove(Arguments):
    move: str = Field(description="id of a catalogue move that your task lists")


class Shell(Arguments):
    command: str
    timeout_s: int = Field(120, ge=1, le=600)


class Nothing(Arguments):
    pass


class OfRun(Arguments):
    run: int = Field(ge=1, description="number of the training run")


class Logs(OfRun):
    lines: int = Field(40, ge=1, le=400)


class Ask(Arguments):
    question: str = Field(min_length=3, max_length=4000)


class ReadKnowledge(Arguments):
    file: str = Field(description="as `ask` names it")
    first_line: int = Field(1, ge=1)
    lines: int = Field(200, ge=1, le=1000)


class Finish(Arguments):
    run: int | None = Field(None, description="training run you stand by; null if none worked")
    checkpoint: str | None = Field(None, description="null: chosen by the recipe's criterion")
    move: str | None = Field(None, description="id of the catalogue move you tried, if one")
    title: str = Field(
        "",
        max_length=80,
        description="what you changed, in at most ten words: later rounds know your code by it",
    )
    summary: str = Field(description="what you changed, why, and what came of it")
    claimed_dev: FiniteFloat | None = None
    findings: list[str] = []
    failure_modes: list[str] = []
