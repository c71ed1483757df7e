"""The recipe: one typed file that says everything a run does. Every default of flantune stands here, once.

A recipe states only what differs from these defaults; an unknown key is an error; loading one reads nothing but the
file itself. `${name}` in any string is replaced by `vars.name`; `--data DIR` sets `vars.data`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from flantune import presets
from flantune.errors import RecipeError, shorten
from flantune.types import Format

DEMO = "demo"  # a model of this name is the embedded base model


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CollectionSpec(Section):
    """One file, folder or hub id of examples, and how to read it."""

    path: str = Field(description="file, folder, or hub id (with reader: hub)")
    reader: str = Field("auto", description="auto, or a reader's name: flantune.sources.READERS")
    mixture: str | None = Field(None, description="name the tasks are mixed under; the reader's own when not given")
    columns: dict[str, str] = Field(default_factory=dict, description="for tables and hub sets: role -> column")
    split: str = Field("train", description="for hub sets")
    config: str | None = Field(None, description="for hub sets: the configuration's name")
    include: tuple[str, ...] = Field(("*",), description="globs on file names")
    exclude: tuple[str, ...] = ()


class HeldOut(Section):
    """What must never be trained on. Names and globs; a pattern that matches nothing is an error."""

    tasks: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    mmlu: bool = Field(True, description="leave out NIv2 tasks 664-667 and 685-737 (spec 2.6)")


class DuplicatesSpec(Section):
    """Rows that say what another row says: flantune.mixtures.duplicates."""

    drop: Literal["none", "exact", "near"] = Field(
        "none",
        description="leave out of training what an earlier task or row has, and what a held-out or excluded task has",
    )
    similarity: float = Field(0.8, gt=0, le=1, description="Jaccard, of three-word shingles, from which rows are near")


SettingName = Literal["zs_opt", "zs_noopt", "fs_opt", "fs_noopt", "fs_opt_single", "niv2_inline", "niv2_x_shot"]


class WeightedFormat(Section):
    weight: float = Field(1.0, gt=0)
    setting: SettingName | None = Field(None, description="one of `SETTINGS`; the fields below then change it")
    inversion: Literal["templates"] | Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="for tasks with inverted wording, the format's inverted twin: its rate against 1 for the format "
        "itself (spec 2.2: 0.3), or 'templates' for as many as the task has inverted among its templates (spec 3.1)",
    )
    shots: int | None = Field(None, ge=0, le=64)
    rationale: Literal["auto", "with", "without"] | None = None
    instruction: bool | None = None
    options: Literal["none", "list", "random"] | None = None
    exemplar_templates: Literal["single", "mixed"] | None = None
    demonstrations: bool | None = None
    inverted: bool | None = None
    chat: bool | None = None
    delimiters: Literal["template", "random"] | None = Field(
        None, description="few-shot: the template's own strings around exemplars, or drawn for every prompt"
    )

    def overrides(self) -> dict[str, Any]:
        return {k: v for k, v in self.model_dump(exclude={"weight", "setting", "inversion"}).items() if v is not None}

    @model_validator(mode="after")
    def _one_inversion(self) -> WeightedFormat:
        if self.inversion is not None and self.inverted:
            raise ValueError("give 'inverted' or 'inversion', not both")
        return self


class DenoiserSpec(Section):
    """One way of corrupting text, by UL2's kinds: R regular, X extreme, S sequential (a split at a random place)."""

    kind: Literal["R", "X", "S"]
    share: float = Field(gt=0, description="relative to the others'")
    mean_span: float = Field(3.0, ge=1, description="tokens; R and X")
    noise_density: float = Field(0.15, gt=0, lt=1, description="R and X")


class ObjectiveSpec(Section):
    """What is asked of plain text, and where that text comes from: flantune.tokens.objectives."""

    objective: Literal["auto", "span_corruption", "prefix", "lm", "ul2", "ul2r"] = Field(
        "auto", description="auto: span corruption of an encoder-decoder, plain language modelling of a decoder"
    )
    window: int = Field(512, gt=8, description="tokens of text per example before corruption")
    noise_density: float = Field(0.15, gt=0, lt=1, description="T5")
    mean_span: float = Field(3.0, ge=1, description="T5")
    prefix_share: float = Field(0.0, ge=0, le=1, description="examples split at a random place instead (S-denoiser)")
    denoisers: tuple[DenoiserSpec, ...] = Field((), description="a mixture of one's own instead of ul2's or ul2r's")
    mode_tokens: dict[Literal["R", "X", "S"], str] = Field(
        {"R": "[NLU]", "X": "[NLG]", "S": "[S2S]"},
        description="ul2, ul2r: the token before each kind's inputs (spec 7.5), one of the tokenizer's; {} for none",
    )
    sentinels: str = Field("<extra_id_{}>", description="the tokenizer's tokens that stand for spans, {} a number")
    text: Literal["collections", "files"] = Field("collections", description="where the plain text comes from")
    files: tuple[str, ...] = Field((), description="UTF-8 text files, documents separated by a blank line")

    @model_validator(mode="after")
    def _denoisers_of_a_mixture(self) -> ObjectiveSpec:
        if self.denoisers and self.objective not in ("ul2", "ul2r"):
            raise ValueError("'denoisers' needs 'objective: ul2' or 'ul2r'")
        if "{}" not in self.sentinels:
            raise ValueError("'sentinels' needs {} where the number stands, as in <extra_id_{}>")
        return self


class TextSpec(ObjectiveSpec):
    """Plain text among the instructions, to hold what the base can do."""

    share: float = Field(gt=0, lt=1, description="of the stream's examples")
    window: int = Field(256, gt=8, description="tokens; a longer document gives a piece of it")


Count = Literal["draws", "examples", "input_tokens", "target_tokens"]
LanguageWeights = dict[str, Annotated[float, Field(gt=0)]]


class MixturePart(Section):
    """A weighted part of the mixture: tasks by pattern, or further parts. Weights are relative to the siblings'."""

    name: str
    weight: float = Field(1.0, gt=0)
    tasks: tuple[str, ...] = Field((), description="globs on task names")
    mixture: str | None = Field(None, description="all tasks that were read under this mixture name")
    cap: int | None = Field(None, gt=0, description="examples a task counts for at most; clips the rate, not the data")
    formats: tuple[WeightedFormat, ...] = ()
    parts: tuple[MixturePart, ...] = ()
    language: str | None = Field(None, description="only tasks whose inputs are in this language")
    languages: LanguageWeights = Field(
        default_factory=dict, description="of the wording; the mixture's where not given"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> MixturePart:
        kinds = bool(self.tasks) + (self.mixture is not None) + bool(self.parts)
        if kinds != 1:
            raise ValueError(f"part '{self.name}' needs exactly one of 'tasks', 'mixture' or 'parts'")
        return self


PRESET_SYNONYMS = {"paper-a": "flan2022-paper-a", "paper-b": "flan2022-paper-b"}


PresetName = Literal["flan2022-paper-a", "flan2022-paper-b", "flan2022-public", "proportional", "uniform"]


class MixtureSpec(Section):
    preset: PresetName | None = Field(
        None,
        description="flan2022-paper-a and -b: spec 2.1; flan2022-public: spec 2.2; all over the mixtures that are "
        "present. 'paper-a' and 'paper-b' are accepted too",
    )
    parts: tuple[MixturePart, ...] = ()
    cap: int | None = Field(None, gt=0, description="for proportional: examples a task counts for at most")
    count: Count = Field(
        "draws",
        description="what the weights are shares of: draws (few-shot prompts that no exemplar fits are dropped after), "
        "examples that are packed, or their tokens; all but draws sample the data with the tokenizer first",
    )
    formats: tuple[WeightedFormat, ...] = Field(
        (
            WeightedFormat(setting="zs_opt"),
            WeightedFormat(setting="fs_opt"),
            WeightedFormat(setting="zs_noopt"),
            WeightedFormat(setting="fs_noopt"),
        ),
        description="used by every part that states none; the public code's four settings, spec 2.2",
    )
    language: Literal["en", "zh", "any"] = Field("any", description="language of the templates' wording")
    languages: LanguageWeights = Field(
        default_factory=dict,
        description="languages of the wording, weighted, e.g. {en: 0.7, zh: 0.3}; within each task",
    )
    task_languages: LanguageWeights = Field(
        default_factory=dict,
        description="languages of the tasks' inputs, weighted, over the whole mixture; '*' is every other one",
    )
    text: TextSpec | None = Field(None, description="a share of plain text beside the tasks; none when not given")

    @field_validator("preset", mode="before")
    @classmethod
    def _synonym(cls, value: Any) -> Any:
        return PRESET_SYNONYMS.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _preset_or_parts(self) -> MixtureSpec:
        if self.preset is not None and self.parts:
            raise ValueError("give 'preset' or 'parts', not both")
        if self.language != "any" and self.languages:
            raise ValueError("give 'language' or 'languages', not both")
        return self

    @property
    def wording(self) -> str | tuple[str, ...]:
        """What `templates_for` is asked: one language, "any", or all those that are weighted somewhere."""
        named = set(self.languages)
        parts = list(self.parts)
        while parts:
            part = parts.pop()
            named |= set(part.languages)
            parts += part.parts
        return tuple(sorted(named)) if named else self.language


class TokensSpec(Section):
    inputs_len: int = Field(2048, gt=1, description="tokens; spec 3.6")
    targets_len: int = Field(512, gt=1, description="tokens; spec 3.6")
    few_shot_margin: int = Field(
        128, ge=0, description="few-shot inputs are pruned to inputs_len minus this; 2048 - 128 = 1920, spec 3.6"
    )
    example_inputs_len: int | None = Field(
        None, gt=1, description="tokens one example may have, where rows are longer; inputs_len when not given"
    )
    example_targets_len: int | None = Field(None, gt=1, description="the same of targets; targets_len when not given")
    packing: Literal["best_fit", "next_fit", "none"] = Field("best_fit", description="next_fit is seqio's")
    block: int = Field(4096, gt=0, description="examples packed together; a pack never spans two blocks")
    shard_rows: int = Field(1024, gt=0, description="packed rows per shard file")
    reuse: bool = Field(True, description="tokenise each text of a source once and compose prompts from its tokens")

    @model_validator(mode="after")
    def _examples_fit_rows(self) -> TokensSpec:
        for side, example, row in zip(("inputs", "targets"), self.example_lens, self.row_lens, strict=True):
            if example > row:
                raise ValueError(f"example_{side}_len is {example}: expected at most {side}_len, {row}")
        return self

    @property
    def row_lens(self) -> tuple[int, int]:
        """Tokens of a packed row, inputs and targets."""
        return self.inputs_len, self.targets_len

    @property
    def example_lens(self) -> tuple[int, int]:
        """Tokens that one example is pruned and trimmed to, inputs and targets."""
        return self.example_inputs_len or self.inputs_len, self.example_targets_len or self.targets_len


class ModelSize(Section):
    """A from-scratch model's shape. T5 1.1 names (spec 5.1); a decoder has `layers` and no encoder."""

    d_model: int = 256
    layers: int = 4
    heads: int = 4
    d_kv: int = 64
    d_ff: int = 512
    decoder_layers: int | None = Field(None, description="of an encoder-decoder; `layers` when not given")
    activation: Literal["gated-gelu", "relu"] = Field("gated-gelu", description="t5: 1.1's, or 1.0's")
    kv_heads: int | None = None


class TokenizerSpec(Section):
    path: str | None = Field(None, description="folder or hub id; the model's own when not given")
    vocab_size: int = Field(16_384, gt=300, description="when one is trained on the collections' text")
    sample_mb: float = Field(40, gt=0, description="text to train it on")
    prefix_space: bool = Field(True, description="a text's first word gets the id it has inside text")


class AdapterSpec(Section):
    """Low-rank adapters instead of the whole weights: flantune.models.adapt."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0, description="the update is scaled by alpha / rank, or alpha / sqrt(rank)")
    dropout: float = Field(0.0, ge=0, lt=1, description="of what goes into the adapters")
    targets: Literal["linear", "attention"] | tuple[str, ...] = Field(
        "linear",
        description="which matrices: every linear one but the output's, those of attention, or last parts of names",
    )
    rank_stabilised: bool = Field(False, description="scale by alpha / sqrt(rank), arXiv 2312.03732")
    load: Literal["fp32", "bf16", "4bit"] = Field(
        "fp32", description="how the frozen weights are held; 4bit is QLoRA's NF4 (bitsandbytes, a CUDA device)"
    )


class ModelSpec(Section):
    family: Literal["t5", "llama", "qwen3", "auto"] = "auto"
    attention: Literal["causal", "prefix"] = Field(
        "causal", description="of a decoder; prefix: inputs see each other both ways (prefix-LM, spec 4.3)"
    )
    init: str = Field("scratch", description="local folder, hub id, 'scratch' or 'demo'")
    size: ModelSize = ModelSize()
    tokenizer: TokenizerSpec = TokenizerSpec()
    dropout: float = Field(0.05, ge=0, lt=1, description="spec 5.1")
    adapter: AdapterSpec | None = Field(None, description="train adapters only; all weights when not given")


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


class BenchmarkSpec(Section):
    name: str = Field(
        description="a benchmark's name: flantune.evals.BENCHMARKS; a file of your own, NAME.yaml or NAME.py; or "
        "held_out for the recipe's held-out tasks"
    )
    path: str | None = Field(None, description="its files; ${data}/NAME when not given")
    modes: tuple[Literal["direct", "cot"], ...] = ()
    shots: int | tuple[int, ...] | None = Field(None, description="the benchmark's own when not given")
    limit: int | None = Field(None, gt=0, description="items per task, the first ones in a seeded order")
    split: str | None = None
    max_new_tokens: int | None = Field(None, gt=0, description="for held_out; 128 direct and 256 cot when not given")
    chat: Literal["plain", "single", "dialogue"] = Field(
        "plain", description="through the model's chat template: all in one message, or exemplars as turns"
    )
    trigger: str | None = Field(
        None, description="begins a zero-shot chain of thought: kojima, flan, zh, or the words themselves"
    )
    normalise: Literal["none", "length", "unconditional"] = Field(
        "none", description="of options' log-probabilities: per byte, or less that of the option after no question"
    )
    reading: Literal["strict", "default", "loose"] = Field(
        "default", description="of answers: the source's published rule, the robust one, or any hint of an answer"
    )


class ContaminationSpec(Section):
    """How evaluation items are looked for among the training rows: flantune.mixtures.contamination."""

    check: bool = Field(True, description="look for leaks after an evaluation, and score without them")
    ngram: int = Field(13, gt=1, le=64, description="normalised words")
    threshold: float = Field(0.7, gt=0, le=1, description="share of an item's n-grams in one row: a leak; PaLM's")
    min_words: int = Field(8, gt=0, description="items with fewer, options counted, are not checked")


class EvalSpec(Section):
    benchmarks: tuple[BenchmarkSpec, ...] = ()
    batch_tokens: int = Field(16_384, gt=0, description="padded tokens per forward pass")
    max_inputs: int | None = Field(None, gt=1, description="tokens; the training length when not given")
    precision: Literal["auto", "bf16", "fp32"] = "fp32"
    contamination: ContaminationSpec = ContaminationSpec()


class SelectionSpec(Section):
    """Which checkpoint becomes the model. What it is chosen on is neither trained on nor among what is reported."""

    by: Literal["last", "loss", "score"] = Field(
        "last", description="last: the fixed step `train.steps`, the paper's way; loss or score: the best one measured"
    )
    every: int = Field(500, gt=0, description="steps between two measurements; the last step is measured too")
    tasks: tuple[str, ...] = Field(
        (), description="globs on held-out tasks: these choose, and are left out of the 'held_out' benchmark"
    )
    benchmarks: tuple[BenchmarkSpec, ...] = Field(
        (), description="benchmarks that choose, each on a split that eval.benchmarks does not report"
    )
    limit: int = Field(64, gt=0, description="items per task, the first ones in a seeded order")
    patience: int | None = Field(
        None, gt=0, description="stop after so many measurements without a better one; never when not given"
    )

    @model_validator(mode="after")
    def _has_something_to_choose_on(self) -> SelectionSpec:
        if self.by != "last" and not (self.tasks or self.benchmarks):
            raise ValueError(f"by '{self.by}' needs 'tasks' or 'benchmarks' to choose on")
        if self.by == "last" and (self.tasks or self.benchmarks or self.patience is not None):
            raise ValueError("by 'last' chooses on nothing: set by to 'loss' or 'score', or drop the other keys")
        return self


class Recipe(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    preset: str | tuple[str, ...] | None = Field(
        None, description="fill in what is not stated: flantune.presets; of several, the first is uppermost"
    )
    seed: int = 0
    vars: dict[str, str] = Field(default_factory=dict)
    runs: str = Field("runs", description="folder that holds the run's own folder")
    collections: tuple[CollectionSpec, ...] = Field(min_length=1)
    max_rejected: float = Field(0.01, ge=0, le=1, description="share of bad rows in a file above which reading stops")
    held_out: HeldOut = HeldOut()
    duplicates: DuplicatesSpec = DuplicatesSpec()
    mixture: MixtureSpec = MixtureSpec(preset="proportional")
    tokens: TokensSpec = TokensSpec()
    model: ModelSpec = ModelSpec()
    pretrain: PretrainSpec | None = None
    train: TrainSpec = TrainSpec()
    selection: SelectionSpec = SelectionSpec()
    eval: EvalSpec = EvalSpec()

    @property
    def folder(self) -> Path:
        return Path(self.runs) / self.name


def load_recipe(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read and check a recipe. `overrides` are dotted keys ("train.steps") set after reading.

    Raises RecipeError naming the file, the key, what was expected and what came.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe. Ready ones are in recipes/.") from None
    except (OSError, UnicodeDecodeError) as e:
        raise RecipeError(f"{path}: cannot be read: {e}") from None
    except yaml.YAMLError as e:
        raise RecipeError(f"{path}: not YAML: {e}") from None
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: expected a mapping of keys, got {shorten(raw)}.")
    for key, value in (overrides or {}).items():
        set_dotted(raw, key, value)
    return parse_recipe(raw, where=str(path))


def parse_recipe(raw: Mapping[str, Any], where: str = "recipe") -> Recipe:
    variables = raw.get("vars") or {}
    if not isinstance(variables, dict):
        raise RecipeError(f"{where}: key 'vars': expected a mapping, got {shorten(variables)}.")
    values = {str(k): str(v) for k, v in variables.items()}
    filled = {k: (v if k == "vars" else fill_variables(v, values, where)) for k, v in raw.items()}
    try:
        return Recipe.model_validate(presets.filled(filled, where))
    except ValidationError as e:
        lines = []
        for err in e.errors():
            key = ".".join(str(p) for p in err["loc"]) or "(top)"
            if err["type"] == "extra_forbidden":
                hint = near_names(str(err["loc"][-1]), err["loc"][:-1])
                lines.append(f"{where}: unknown key '{key}'. {hint}")
            else:
                lines.append(f"{where}: key '{key}': {err['msg']}, got {shorten(err['input'])}.")
        raise RecipeError("\n".join(lines)) from None


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def fill_variables(value: Any, variables: Mapping[str, str], where: str) -> Any:
    """`${name}` replaced in every string of a nested value."""

    def one(match: re.Match[str]) -> str:
        if match[1] not in variables:
            hint = "Give --data DIR." if match[1] == "data" else f"Add it under 'vars', or give --set vars.{match[1]}=…"
            raise RecipeError(f"{where}: variable '{match[0]}' has no value. {hint}")
        return variables[match[1]]

    if isinstance(value, str):
        return _VARIABLE.sub(one, value)
    if isinstance(value, dict):
        return {k: fill_variables(v, variables, where) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [fill_variables(v, variables, where) for v in value]
    return value


def set_dotted(raw: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for part in parents:
        node = raw.setdefault(part, {})
        if not isinstance(node, dict):
            raise RecipeError(f"--set {key}: '{part}' is not a section of the recipe.")
        raw = node
    raw[last] = value


def near_names(key: str, parents: tuple[int | str, ...]) -> str:
    section: type[BaseModel] | None = Recipe
    for part in parents:
        if isinstance(part, int) or section is None:
            continue
        field = section.model_fields.get(part)
        section = _section_of(field.annotation) if field else None
    known = list(section.model_fields) if section else []
    close = difflib.get_close_matches(key, known, n=1)
    return f"Did you mean '{close[0]}'?" if close else f"Known keys: {', '.join(known)}."


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((s for a in get_args(annotation) if (s := _section_of(a)) is not None), None)


def make_format(spec: WeightedFormat) -> Format:
    """The Format a recipe's entry names: its setting's fields (spec 2.4), changed by what the entry states."""
    base = SETTINGS[spec.setting] if spec.setting else Format()
    return replace(base, **spec.overrides())


# The paper's four settings. Only zs_opt draws the options' wording at random; fs_opt always uses the dash form with
# text targets (spec 2.5).
FORMATS: Mapping[str, Format] = {
    "zs_opt": Format(shots=0, options="random"),
    "zs_noopt": Format(shots=0, options="none"),
    "fs_opt": Format(shots=5, options="list", exemplar_templates="mixed"),
    "fs_noopt": Format(shots=3, options="none", exemplar_templates="single"),
}
# The other few-shot variants of spec 3.4 and 3.5. The public code's fs_opt is `fs_opt` and `fs_opt_single`, half and
# half; for Natural Instructions it is the two that follow.
VARIANTS: Mapping[str, Format] = {
    "fs_opt_single": Format(shots=3, options="list", exemplar_templates="single"),  # 2 or 3 are kept
    "niv2_inline": Format(shots=1, options="list", demonstrations=True),  # a stored example and its explanation
    "niv2_x_shot": Format(shots=2, options="list", exemplar_templates="single"),  # two pairs drawn at random
}
SETTINGS: Mapping[str, Format] = {**FORMATS, **VARIANTS}
