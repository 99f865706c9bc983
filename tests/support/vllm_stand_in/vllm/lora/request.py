"""`vllm.lora.request` of 0.17.1."""

from dataclasses import dataclass


@dataclass
class LoRARequest:
    """Names an adapter; ids begin at 1."""

    lora_name: str
    lora_int_id: int
    lora_path: str = ""
    base_model_name: str | None = None
    tensorizer_config_dict: dict[str, object] | None = None
    load_inplace: bool = False

    def __post_init__(self) -> None:
        if self.lora_int_id < 1:
            raise ValueError(f"id must be > 0, got {self.lora_int_id}")
        if not self.lora_path:
            raise AssertionError("lora_path cannot be empty")
