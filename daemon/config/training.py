"""Section `training`: LoRA, optimiser, and where the trainer runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from daemon.config.section import Fraction, Positive, Seconds, Section

Quantity = Annotated[str, Field(coerce_numbers_to_str=True)]
_FULL = 100
_ROUNDING = 1e-6


class DistillationConfig(Section):
    """Learning from a teacher: the frozen base model under another prompt (recipes with `teacher_messages`)."""

    alpha: Fraction = 0.5
    """Of the Jensen-Shannon divergence; 0: forward KL, 1: reverse KL."""
    early_tokens: Positive = 32
    """Where the start of an answer decides (safety), later tokens have the weight `late_weight`."""
    late_weight: Fraction = 0.1
    ordinary_weight: Annotated[float, Field(gt=0)] = 3.0
    """Weight of an ordinary pair under this loss, relative to a lesson's. At alpha 0.5 it is about a quarter of KL."""
    ratio_limit: Annotated[float, Field(ge=1)] = 2.0
    """Largest importance ratio (probability now / when sampled) of a token."""
    hindsight_floor: Annotated[float, Field(ge=0)] = 0.05
    """Examples whose complaint changes less than this (mean |A|, nats per token) are left out."""
    stop_kl: Annotated[float, Field(gt=0)] | None = 0.7
    """Training with a teacher ends where KL(base || trained) on lessons' prompts exceeds this (nats per token)."""
    cache_bytes: Positive = 1_073_741_824
    """On a CPU the teacher's whole distributions are kept up to this size; otherwise its `top_tokens` and the rest."""
    top_tokens: Positive = 100


class RayConfig(Section):
    """With `runner: ray`: the cluster, and what each worker gets there."""

    address: str | None = None
    """URL of the cluster's dashboard, which takes jobs."""
    workers: Positive = 1
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0.0
    """0: workers train on CPUs and talk by gloo; else by NCCL."""
    resources_per_worker: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Further resources by the names of the cluster."""
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    runtime_env: dict[str, Any] = {}
    """Ray's runtime environment of the job, e.g. {"env_vars": {...}}."""
    unreachable_s: Seconds = 1800.0
    """A cluster that does not answer for longer than this fails the run."""

    @field_validator("runtime_env")
    @classmethod
    def _installed(cls, runtime_env: dict[str, Any]) -> dict[str, Any]:
        if found := {"working_dir", "py_modules"} & runtime_env.keys():
            raise ValueError(
                f"takes no {', '.join(sorted(found))}: install erratad in the image of the cluster's nodes"
            )
        return runtime_env


class ClaimConfig(Section):
    """A volume claim in the trainer's pod."""

    claim: Annotated[str, Field(min_length=1)]
    path: Annotated[str, Field(pattern=r"^/")]
    """Where the daemon sees it, too."""
    sub_path: str | None = None
    read_only: bool = False


class ResourcesConfig(Section):
    """Of a container, by the names and in the units of Kubernetes."""

    requests: dict[str, Quantity] = {}
    limits: dict[str, Quantity] = {}


class KubernetesConfig(Section):
    """With `runner: kubernetes`: the cluster, and the pod that trains there."""

    image: str | None = None
    """With erratad in the daemon's version."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    image_pull_secrets: list[str] = []
    kubeconfig: Path | None = None
    """None: the service account of the daemon's pod, or outside of one the kubeconfig that kubectl would take."""
    context: str | None = None
    """Of the kubeconfig; None: its current one."""
    namespace: str | None = None
    """None: that of the service account or context."""
    name_prefix: Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$")] = "erratad"
    """Of the jobs' names. Two daemons in one namespace need two."""
    queue: str | None = None
    """Kueue's LocalQueue."""
    priority_class: str | None = None
    labels: dict[str, str] = {}
    """Of job and pod."""
    resources: ResourcesConfig = ResourcesConfig()
    node_selector: dict[str, str] = {}
    tolerations: list[dict[str, Any]] = []
    """As in a pod."""
    service_account: str | None = None
    """Of the trainer's pod, which gets no token of it."""
    user: Positive | None = 10001
    """User and group of the trainer's files: those of the daemon's pod. None: the image's."""
    env: dict[str, str] = {}
    claims: list[ClaimConfig] = []
    """They hold data_dir/runs, data_dir/adapters and model.path."""
    ttl_s: Positive = 86_400
    """A job that has ended is deleted after this time, its log with it."""
    unreachable_s: Seconds = 1800.0
    """An API server that does not answer for longer than this fails the run."""


class TrainingConfig(Section):
    runner: Literal["local", "ray", "kubernetes"] = "local"
    """local: a child process of the daemon; ray: a job on a Ray cluster; kubernetes: a job of Kubernetes."""
    ray: RayConfig = RayConfig()
    kubernetes: KubernetesConfig = KubernetesConfig()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "bfloat16"
    quantization: Literal["none", "4bit", "8bit"] = "none"
    launcher: list[str] = []
    """Prefix of the training command, e.g. ["torchrun", "--standalone", "--no-python", "--nproc-per-node", "4"].

    The processes divide the examples of each step. Empty: one process, on the first visible GPU.
    """
    rank: Positive = 16
    alpha: Positive = 32
    dropout: Fraction = 0.05
    target_modules: Literal["auto"] | Annotated[list[str], Field(min_length=1)] = "auto"
    """Layers that get an adapter; auto: those of attention and MLP that both the trainer and vLLM can hold."""
    epochs: Annotated[float, Field(gt=0)] = 3.0
    max_tokens: Positive | None = None
    """Maximum number of tokens (prompt and completion); training then ends before the last epoch. None: no limit."""
    replay_loss: Literal["kl", "cross-entropy", "distillation"] = "kl"
    """Loss on ordinary pairs: KL from the base model, its answers as targets, or the divergence of `distillation`."""
    kl_weight: Annotated[float, Field(gt=0)] = 2.0
    """With `kl`: weight of a replayed answer relative to a trained one."""
    distillation: DistillationConfig = DistillationConfig()
    strengths: tuple[Annotated[float, Field(ge=0.01, le=1)], ...] = (1.0,)
    """Shares of alpha at which the gate measures a candidate, falling from 1.0. The weakest that passes goes live."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    warmup_ratio: Fraction = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    batch_tokens: Positive = 2048
    max_sequence_tokens: Positive = 1024
    gradient_checkpointing: bool = False
    checkpoint_every_steps: Positive = 10
    threads: Positive | None = None
    """CPU threads of the trainer; None: torch decides. Use 1 if a server runs on the same CPU."""
    max_attempts: Positive = 3
    timeout_s: Seconds = 14_400.0

    @model_validator(mode="after")
    def _has_a_cluster(self) -> Self:
        if self.runner == "ray" and self.ray.address is None:
            raise ValueError("runner ray needs ray.address, the URL of the cluster's dashboard: http://HEAD:8265")
        if self.runner == "ray" and self.launcher:
            raise ValueError("runner ray starts its workers itself: leave launcher empty and set ray.workers")
        if self.runner == "kubernetes" and self.kubernetes.image is None:
            raise ValueError("runner kubernetes needs kubernetes.image, an image with erratad in the daemon's version")
        return self

    @field_validator("strengths")
    @classmethod
    def _fall(cls, strengths: tuple[float, ...]) -> tuple[float, ...]:
        percents = [round(100 * one) for one in strengths] or [100]
        whole = all(abs(100 * one - percent) < _ROUNDING for one, percent in zip(strengths, percents, strict=False))
        if percents[0] != _FULL or sorted(set(percents), reverse=True) != percents or not whole:
            raise ValueError("write falling shares of whole percents that begin with 1.0, such as [1.0, 0.75, 0.5]")
        return strengths or (1.0,)
