"""The optimizer and the steps, of finetuning and of pretraining."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flantune.recipe.objectives import ObjectiveSpec
from flantune.recipe.section import Section


class OptimizerSpec(Section):
    name: Literal["adafactor", "adamw"] = "adafactor"
    lr: float = Field(5e-4, gt=0, description="constant, spec 5.1; Adafactor multiplies it by each tensor's RMS")
    warmup_steps: int = Field(0, ge=0)
    decay: Literal["constant", "cosine", "linear", "inverse_sqrt"] = Field(
        "constant", description="after the warm-up, to `final_lr`"
    )
    final_lr: float = Field(0.0, ge=0)
    step_offset: int = Field(0, ge=0, description="virtual steps already done, spec 5.2; 0 is a fresh state")
    min_dim_factored: int = Field(128, ge=1)
    weight_decay: float = Field(0.0, ge=0, description="adamw only")
    betas: tuple[float, float] = (0.9, 0.95)


class TrainSpec(Section):
    steps: int = Field(1000, gt=0)
    batch_rows: int = Field(64, gt=0, description="packed rows per optimizer step, over all ranks; spec 5.1")
    micro_rows: int = Field(16, gt=0, description="packed rows per forward pass")
    optimizer: OptimizerSpec = OptimizerSpec()
    loss_normalizer: Literal["target_tokens", "examples", "t5x_sum"] = Field(
        "target_tokens",
        description="what the summed loss is divided by, counted over the global batch; t5x_sum does not divide "
        "(spec 4.4)",
    )
    z_loss: float = Field(0.0, ge=0, description="weight of (log Z)^2; T5X 1e-4")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="auto: bf16 where hardware multiplies it")
    checkpoint_every: int = Field(500, gt=0, description="steps")
    keep_checkpoints: int = Field(2, gt=0)
    log_every: int = Field(10, gt=0)
    watch: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        ("tensorboard",), description="who is shown the figures besides metrics.jsonl"
    )
    activation_checkpointing: bool = Field(
        False, description="make each layer's activations again in the backward pass: less memory, a third more work"
    )
    compile: bool = Field(False, description="torch.compile of each layer")
    threads: int | None = Field(None, gt=0, description="CPU threads; all when not given")


class PretrainSpec(ObjectiveSpec, TrainSpec):
    """Training on plain text before finetuning: of a from-scratch model, or of a base that goes on (UL2R, spec 7.5)."""

    optimizer: OptimizerSpec = OptimizerSpec(name="adamw", lr=1e-3, warmup_steps=200, decay="cosine", final_lr=1e-4)
    inputs_len: int | None = Field(None, gt=1, description="of a packed row; one window's when not given")
    targets_len: int | None = Field(None, gt=1, description="of a packed row; one window's when not given")
