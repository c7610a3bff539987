"""The tables that say how completions are sampled, and which of their tokens are learnt from."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from offaxis.recipe.table import Table


class Rollouts(Table):
    """How completions are sampled: from whom, how many of each prompt, how hot, how long.

    Attributes:
        source: Who samples: the student now, the student of `lag` optimizer steps ago (for the
            first `lag` steps the start), the start for ever (the anchor), or the teacher.
        lag: The steps of a stale source; it keeps lag + 1 copies of the trained weights.
        reuse: Optimizer steps for one drawing: it draws the prompts of all of them, each step
            learns from its own share, and the later ones from samples as many steps older.
        importance: How tokens are weighed for not being the student's own, by the recorded
            sampling log-probabilities: not at all, each by its ratio, or by its sequence's. With
            weights a policy ratio is taken to the student at the beginning of the step
            (`offaxis.objectives.importance`).
        importance_cap: The largest weight.
        proximal: What a policy ratio is taken to: the weights that sampled, which corrects within
            the clip, or the student at the beginning of the step, which corrects nothing.
        rows: Completions sampled at once at most; 0 sets no limit.
        engine: What samples: `generate` in this process, or a server of the given kind. A server
            samples at temperature 1, where all agree what a log-probability is, and does not
            repeat bit for bit.
        url: Where that server listens.
        model: The name it serves the model under (vLLM).
        weights: A folder that both this process and the server see. The weights to sample from are
            written there and the server loads them, before every drawing.
        deadline_seconds: How long the server may leave a question unanswered.
    """

    later = frozenset(
        {
            *("source", "lag", "reuse", "importance", "importance_cap", "proximal", "rows"),
            *("engine", "url", "model", "weights", "deadline_seconds"),
        }
    )

    per_prompt: PositiveInt = 8
    # Colder, the scaled logits of a trained model leave float32.
    temperature: float = Field(default=1.0, ge=0.01)
    max_tokens: PositiveInt = 19
    source: Literal["student", "stale", "anchor", "teacher"] = "student"
    lag: NonNegativeInt = 0
    reuse: PositiveInt = 1
    importance: Literal["none", "token", "sequence"] = "none"
    importance_cap: PositiveFloat = 2.0
    proximal: Literal["sampler", "student"] = "sampler"
    rows: NonNegativeInt = 0
    engine: Literal["generate", "vllm", "sglang"] = "generate"
    url: str | None = None
    model: str = ""
    weights: str | None = None
    deadline_seconds: PositiveFloat = 600.0

    @model_validator(mode="after")
    def _says_how_stale(self) -> "Rollouts":
        if (self.source == "stale") is not (self.lag > 0):
            raise ValueError(
                f'source = "stale" and a lag of at least 1 belong together; given: {self.source!r} '
                f"and {self.lag}"
            )
        return self

    @model_validator(mode="after")
    def _says_which_server(self) -> "Rollouts":
        served = self.engine != "generate"
        if served is not (self.url is not None):
            raise ValueError(f"engine and url belong together; given: {self.engine}, {self.url}")
        if served and self.temperature != 1:
            raise ValueError(f"a server samples at temperature 1; given: {self.temperature}")
        if served and self.source == "teacher":
            raise ValueError(
                "the teacher samples where [teacher] says it is; remove engine and url"
            )
        if (self.weights is not None) is not (served and self.source in ("student", "stale")):
            raise ValueError(
                "weights is the folder through which a server gets the student's weights: it "
                'belongs to an engine with source = "student" or "stale", and only there; '
                'with source = "anchor" the server serves the start'
            )
        if self.weights is not None and self.engine == "vllm":
            raise ValueError(
                "vLLM documents no request that loads weights from a folder; sample from a fixed "
                'model (source = "anchor"), or use sglang or generate'
            )
        return self

    @property
    def asks_student(self) -> bool:
        """Whether the step needs the student's own log-probabilities before it begins."""
        return self.importance != "none" or self.proximal == "student"


class Tokens(Table):
    """Token sparsification: a loss on a fraction of each rollout's tokens.

    Attributes:
        keep: The fraction, rounded up to whole tokens of each sample.
        by: Which are kept: those of the largest log p_student - log p_teacher of the sampled token
            (signed), of the largest entropy of the student, of the largest reverse KL over the
            whole vocabulary, or random ones keyed by seed and step.
        compensate: Whether the kept ones are scaled so that each sample weighs as much as before.
    """

    keep: float = Field(gt=0, le=1)
    by: Literal["log_ratio", "entropy", "divergence", "random"]
    compensate: bool = True
