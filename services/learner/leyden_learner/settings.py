"""What a learner can be told (``LEYDEN_LEARNER_…``). Free of torch: a bad value is refused at once."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from leyden_learner.batching import BatchRule
from leyden_learner.recipes import RECIPES, Recipe
from leyden_learner.recipes.base import Aggregation, Loss
from leyden_learner.verl_backend.refusals import refusal
from leyden_platform.objects import ObjectSettings, object_url
from leyden_platform.settings import DatabaseSettings, ServiceSettings
from leyden_schemas import Topics, WeightsKind
from leyden_schemas.base import Name

_ANY_STALENESS = 2**31


class LearnerSettings(ServiceSettings):
    """One learner trains one policy within one run."""

    model_config = SettingsConfigDict(
        env_prefix="LEYDEN_LEARNER_", env_nested_delimiter="__", frozen=True, extra="ignore"
    )

    database: DatabaseSettings = Field(default_factory=DatabaseSettings)

    policy: Name = Field(description="The policy to train; its first version must be in the registry.")
    run: Name = Field(default="default", description="Only samples of this run are trained on.")
    replay: Name | None = Field(
        default=None,
        description="Train on this replay instead of live traffic. Unless set, run and the one alias are "
        "its name, and max_staleness is without bound.",
    )
    tenant: Name = Field(default="default", description="Only samples of this tenant are trained on.")
    registry_url: str = Field(default="http://localhost:8002", description="Base URL of the registry.")
    registry_timeout_s: float = Field(default=30.0, gt=0, description="Of one request to the registry.")
    start_timeout_s: float = Field(
        default=600.0, gt=0, description="How long to wait for the policy's first version before giving up."
    )
    aliases: list[Name] = Field(
        default=["latest", "serving"], description="Aliases that follow every version trained, as JSON."
    )
    checkpoint_dir: Path = Field(
        default=Path("checkpoints"),
        description="Folder that inference and registry can read as well, unless checkpoint_url is set.",
    )
    checkpoint_url: str | None = Field(
        default=None,
        description="Place in an object store, s3://bucket/prefix, that checkpoints are uploaded to; "
        "checkpoint_dir then holds the newest only, and is nobody else's concern.",
    )
    unfinished_after_s: float = Field(
        default=3600.0,
        ge=0,
        description="Age at which uploads that no committed step names are deleted from the store.",
    )
    servers: list[str] = Field(
        default=[],
        description="Base URLs, as JSON, of servers whose loaded versions are not deleted; all must answer.",
    )
    objects: ObjectSettings = Field(default_factory=ObjectSettings)
    keep_trainer_states: int = Field(
        default=2, ge=1, description="Newest checkpoints that keep optimizer and RNG state."
    )
    keep_weights: int = Field(
        default=0,
        ge=0,
        description="Newest checkpoints that keep weights; what is served or pinned does, too; 0 keeps all.",
    )

    batch_rollouts: int = Field(
        default=96,
        ge=1,
        description="Rollouts of a step. Does not hold, unless it is set, where one of the next two is.",
    )
    batch_groups: int = Field(
        default=0, ge=0, description="Groups of a step, whose rollouts are trained on together; 0 is off."
    )
    batch_tokens: int = Field(
        default=0, ge=0, description="Most sampled tokens of a step; 0 is without a limit."
    )
    queue_weights: dict[str, Annotated[float, Field(ge=1e-6, le=1e6)]] = Field(
        default={}, description="By queue of tasks, as JSON: its share of a step beside the others', else 1."
    )
    min_rollouts: int = Field(
        default=8, ge=1, description="Fewest rollouts of a step taken because the time was up."
    )
    batch_timeout_s: float = Field(
        default=60.0, gt=0, description="After this long a step takes what is there."
    )
    max_buffered_rollouts: int = Field(
        default=1024, ge=1, description="Rollouts of a queue in memory; more are left on the log meanwhile."
    )
    max_staleness: int = Field(
        default=4, ge=0, description="Versions between the one that sampled a rollout and the newest."
    )

    backend: Literal["torch", "verl"] = Field(
        default="torch",
        description="What computes a step: this package on torch, or verl's FSDP engine and losses "
        "(extra verl).",
    )
    max_steps: int = Field(default=0, ge=0, description="Stop training after this many steps; 0 is never.")
    epochs: int = Field(default=1, ge=1, description="Passes over a batch, each with an optimizer step.")
    micro_batch_tokens: int = Field(
        default=16_384, ge=1, description="Tokens, padding included, of one forward and backward pass."
    )

    packing: bool = Field(
        default=True,
        description="Rows lie end to end in a pass instead of being padded: the same result, sooner.",
    )

    lora_rank: int = Field(
        default=0,
        ge=0,
        description="Train adapters of this rank; 0 trains all weights.",
    )
    lora_alpha: float = Field(
        default=0.0, ge=0, description="Their scale times the rank; 0 is twice the rank."
    )
    lora_targets: list[str] = Field(
        default=[],
        description="Names of the layers with adapters, as JSON; none: every linear one but the head.",
    )
    publish: Literal["merged", "adapter"] = Field(
        default="merged",
        description="What a version is where adapters train: whole weights with them merged in, or the "
        "adapter alone, over the version that the run began with.",
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="Of the computation; weights and optimizer are fp32."
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="Compute activations twice instead of keeping them: less memory, more time.",
    )

    compile: bool = Field(
        default=False, description="Compile the model's layers (torch.compile): slower to start, then faster."
    )
    data_parallel: int = Field(
        default=1,
        ge=1,
        description="Processes of this machine that train together (FSDP2), each on a GPU of its own where "
        "there are GPUs.",
    )
    rank_timeout_s: float = Field(
        default=300.0,
        gt=0,
        description="The service ends when one of these processes gives no sign of life, or lets the others "
        "wait, for so long.",
    )

    lr: float = Field(default=1e-6, gt=0, description="Peak learning rate.")
    lr_schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="How the learning rate falls from its peak to 0 over total_steps."
    )
    warmup_steps: int = Field(default=0, ge=0, description="Steps of linear warm-up.")
    total_steps: int = Field(default=0, ge=0, description="Length of the schedule; 0 is endless.")
    betas: tuple[float, float] = Field(default=(0.9, 0.99), description="Of AdamW, as JSON.")
    weight_decay: float = Field(default=0.0, ge=0, description="Of AdamW.")
    grad_clip: float = Field(default=1.0, gt=0, description="Largest norm of the gradient.")

    ema_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Of the moving average of the weights, a step; 0 keeps none.",
    )
    ema_published: bool = Field(
        default=True,
        description="Publish the average, where there is one, instead of the weights themselves.",
    )

    objective: Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo"] = Field(
        default="grpo", description="Loss, bounds and aggregation, where they are not set by themselves."
    )
    loss: Loss | None = Field(default=None, description="ppo_clip, gspo or cispo; unset: the objective's.")
    clip_low: float | None = Field(
        default=None, gt=0, le=1, description="The ratio counts down to 1 - clip_low; unset: the objective's."
    )
    clip_high: float | None = Field(
        default=None, gt=0, description="The ratio counts up to 1 + clip_high; unset: the objective's."
    )
    dual_clip: float | None = Field(
        default=None,
        gt=1,
        description="Bound on ratio times advantage where the advantage is negative; unset: the objective's.",
    )
    aggregation: Aggregation | None = Field(
        default=None,
        description="What counts the same: every rollout, token or row (sequence), or every token divided by "
        "fixed_length; unset: the objective's.",
    )
    fixed_length: int = Field(
        default=0, ge=0, description="Most tokens a rollout may sample, for the aggregation fixed_length."
    )
    importance_cap: float = Field(
        default=0.0,
        ge=0,
        description="Above 0: clip against the trainer's own logprobs, weigh tokens by trainer / sampler, "
        "at most this. At 0 the ratio is to the sampler itself.",
    )
    importance: Literal["truncated", "masked"] = Field(
        default="truncated",
        description="Whether a weight beyond importance_cap counts as the cap, or its token not at all.",
    )
    importance_low: float = Field(
        default=0.0, ge=0, description="With masked, tokens of a smaller weight do not count either."
    )
    kl_coefficient: float = Field(
        default=0.0, ge=0, description="Weight of the KL to the first version; at 0 that model is not loaded."
    )
    kl: Literal["k1", "k2", "k3"] = Field(default="k3", description="Its estimator.")

    max_kl: float = Field(
        default=1.0, gt=0, description="A step further than this from its sampler is skipped."
    )
    max_ratio: float = Field(default=1e6, gt=1, description="A step with a larger ratio is skipped.")
    min_entropy: float = Field(
        default=0.0,
        ge=0,
        description="Training pauses when a window's entropy is below this many nats a token; 0 is off.",
    )
    max_reward_drop: float = Field(
        default=0.0,
        ge=0,
        description="Training pauses when a window loses this share of what the reward had gained; 0 is off, "
        "1 is back where it began.",
    )
    collapse_window: int = Field(default=10, ge=1, description="Steps that these two look at together.")
    max_skips: int = Field(
        default=5, ge=1, description="Training pauses after this many skipped steps in a row."
    )

    sinks: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(
        default=[], description="Where step metrics go besides Prometheus, as JSON; each needs its extra."
    )
    tensorboard_dir: Path = Field(
        default=Path("tensorboard"), description="Event files go to <policy>/<run> in this folder."
    )
    wandb_project: str = Field(default="leyden", min_length=1, description="Of Weights & Biases.")
    wandb_entity: str | None = Field(default=None, description="Unset: the default of the API key.")
    wandb_mode: Literal["online", "offline"] = Field(
        default="online", description="offline writes a folder for `wandb sync`."
    )
    wandb_dir: Path = Field(default=Path("wandb-runs"), description="Where wandb keeps its files.")
    mlflow_uri: str | None = Field(
        default=None, description="Tracking server or database, sqlite:///mlflow.db; unset: MLflow's own."
    )
    mlflow_experiment: str = Field(default="leyden", min_length=1)

    seed: int = Field(default=0, ge=0)
    threads: int = Field(default=0, ge=0, description="CPU threads of torch; 0 leaves the choice to torch.")
    device: Literal["cpu", "cuda", "auto"] = Field(
        default="auto", description="auto takes CUDA when it is there."
    )

    @property
    def recipe(self) -> Recipe:
        """The objective with what is set by itself."""
        base = RECIPES[self.objective]
        own = {field.name: getattr(self, field.name) for field in fields(base)}
        return replace(base, **{name: value for name, value in own.items() if value is not None})

    @model_validator(mode="before")
    @classmethod
    def _of_replay(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Old traffic, trained on aside: nothing that is served moves unless it is asked for."""
        name = values.get("replay")
        if not name:
            return values
        if values.get("run", name) != name:
            raise ValueError(f"run {values['run']!r}: the samples of replay {name!r} are of run {name!r}")
        return {"run": name, "aliases": [name], "max_staleness": _ANY_STALENESS, **values}

    @property
    def samples_topic(self) -> str:
        """Where the samples lie that it trains on."""
        return Topics.SAMPLES.name if self.replay is None else f"{Topics.SAMPLES.name}.{self.replay}"

    @field_validator("checkpoint_url")
    @classmethod
    def _is_a_place(cls, value: str | None) -> str | None:
        return object_url(value) if value else None

    @property
    def batch_rule(self) -> BatchRule:
        """What makes a step."""
        return BatchRule(
            min_rollouts=self.min_rollouts,
            timeout_s=self.batch_timeout_s,
            rollouts=self.batch_rollouts if self._by_rollouts else 0,
            groups=self.batch_groups,
            tokens=self.batch_tokens,
            share=self.max_buffered_rollouts,
            weights=self.queue_weights,
        )

    @property
    def _by_rollouts(self) -> bool:
        return "batch_rollouts" in self.model_fields_set or not (self.batch_groups or self.batch_tokens)

    def _check_batches(self) -> None:
        limit = self.batch_rollouts if self._by_rollouts else 0
        if limit and self.batch_groups:
            raise ValueError(
                f"batch_rollouts {limit} and batch_groups {self.batch_groups} both say what fills a step; "
                "unset one of them (batch_tokens may go with either)"
            )
        if limit and self.min_rollouts > limit:
            raise ValueError(
                f"min_rollouts {self.min_rollouts} exceeds batch_rollouts {limit}; lower min_rollouts"
            )
        fewest = max(limit, self.batch_groups, self.min_rollouts)
        if self.max_buffered_rollouts < fewest:
            raise ValueError(
                f"max_buffered_rollouts {self.max_buffered_rollouts} is below what a step needs, {fewest}: "
                "none would ever be full; raise it to the rollouts of several steps"
            )

    @property
    def adapter_alpha(self) -> float:
        """What the rank divides to give the scale of the adapters."""
        return self.lora_alpha or 2.0 * self.lora_rank

    @property
    def published_kind(self) -> WeightsKind:
        """What a version is."""
        return WeightsKind.LORA if self.publish == "adapter" else WeightsKind.FULL

    def _check_what_is_off(self) -> None:
        """A setting of something that another one leaves off would be without effect, and nobody told."""
        if not self.lora_rank and (self.lora_alpha or self.lora_targets):
            raise ValueError(
                "lora_alpha and lora_targets are of adapters, and with lora_rank 0 all weights train; set "
                "LEYDEN_LEARNER_LORA_RANK"
            )
        if not self.importance_cap and self.importance == "masked":
            raise ValueError(
                "importance masked: with importance_cap 0 nothing is corrected; set "
                "LEYDEN_LEARNER_IMPORTANCE_CAP to the largest weight that counts"
            )
        if self.importance_low and self.importance != "masked":
            raise ValueError(
                f"importance_low {self.importance_low} is of LEYDEN_LEARNER_IMPORTANCE=masked alone"
            )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_batches()
        self._check_what_is_off()
        if self.publish == "adapter" and not self.lora_rank:
            raise ValueError(
                "publish adapter: with lora_rank 0 all weights train, and there is no adapter; set "
                "LEYDEN_LEARNER_LORA_RANK, or leave LEYDEN_LEARNER_PUBLISH at merged"
            )
        if self.lr_schedule != "constant" and self.total_steps <= self.warmup_steps:
            raise ValueError(f"a {self.lr_schedule} schedule needs total_steps above warmup_steps")
        if self.recipe.aggregation == "fixed_length" and not self.fixed_length:
            raise ValueError(
                "the aggregation fixed_length needs fixed_length, the most tokens that a rollout may sample: "
                "max_tokens times its calls"
            )
        if self.importance_cap and self.importance_low >= self.importance_cap:
            raise ValueError(f"importance_low {self.importance_low} is not below importance_cap")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas lie in [0, 1)")
        if self.backend == "verl" and (why := refusal(self)):
            raise ValueError(why)
        return self
