"""What the sheets assume where no file says it; each can be set on the command line."""

from pydantic import Field, PositiveFloat, PositiveInt

from aevo.files.documents import Part

ROWS = {"challenge": 4096, "tiny": 64}


class Assumptions(Part):
    """The command's own keys; the description of each is printed with its value."""

    gpu: str | None = Field(default=None, description="h100 or h200; null: what conf/cluster names")
    row_tokens: PositiveInt | None = Field(
        default=None,
        description=(
            "positions of a row in a forward pass, padding included; null: 4,096, room for "
            "long traces "
            "(64 where the preset is tiny); of trainer=bridge at most its `sequence`"
        ),
    )
    prompt_tokens: PositiveInt = Field(
        default=400,
        description=(
            "of an item, with instruction and chat template; the challenge's prompts have "
            "300 to 500 "
            "characters, digits and symbols mostly"
        ),
    )
    answer_tokens: PositiveInt = Field(
        default=2048,
        description=(
            "mean of a generated answer, where the evaluator allows as many; the challenge's "
            "limit is "
            "7,680"
        ),
    )
    kernel_mfu: float = Field(
        default=0.40,
        gt=0,
        le=1,
        description=(
            "share of peak that matrix kernels reach: published, Nemotron 3.5 Lightning "
            "pretraining on "
            "16 H100, 399.6 TFLOP/s a GPU"
        ),
    )
    layer_ms: PositiveFloat = Field(
        default=11.0,
        description=(
            "host time of a layer, forward and backward, in each microbatch, whatever its size: "
            "kernel launches and exchange of tokens between experts; from three published "
            "LoRA runs, "
            "below"
        ),
    )
    imbalance: float = Field(
        default=1.5,
        ge=1,
        description=("tokens of the fullest expert rank over the mean; an assumption"),
    )
    reserve: float = Field(
        default=1.10,
        ge=1,
        description=(
            "memory that the allocator holds over what is in use: published Nemotron 3 runs, "
            "1.02 to "
            "1.21"
        ),
    )
    context_gb: float = Field(
        default=2.0,
        ge=0,
        description=("GiB a GPU for CUDA, NCCL and kernels' work space; an assumption"),
    )
    decode_efficiency: float = Field(
        default=0.35,
        gt=0,
        le=1,
        description=("share of memory bandwidth that decoding reaches; an assumption"),
    )
    read_gb_s: PositiveFloat = Field(
        default=2.0,
        description=(
            "GB a second that a node reads from the shared file system; an assumption, site by site"
        ),
    )
    start_s: float = Field(
        default=120,
        ge=0,
        description=(
            "seconds of a GPU job beside reading and work: imports, process groups; an assumption"
        ),
    )

    def row(self, preset: str) -> int:
        """Positions of a row of a benchmark's preset."""
        return self.row_tokens or ROWS.get(preset, ROWS["challenge"])
