"""Serving and scoring: what a release looks like online and at night."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from airflow_ml.spec.base import EntryPoint, Frozen

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Online(Frozen):
    """What a caller of the gateway may rely on.

    Attributes:
        deadline_ms: An answer, or the reason why there is none, comes within this time.
        fallback: When a version does not answer in time, or wrongly: ``"previous"`` asks the one before it (of an arm,
            that is ``stable``; of ``stable``, the champion before), a probability is answered itself, None is an error.
            The first attempt has half of the time where a second one may follow.
        log_inputs: Whether the prediction log keeps the features of a request, or their hash only.
    """

    deadline_ms: float = Field(default=500, gt=0)
    fallback: Literal["previous"] | Probability | None = "previous"
    log_inputs: bool = True


class Judging(Frozen):
    """What a new version may do worse than the stable one, and how long it may take to find out.

    Attributes:
        min_requests: Of the new version, before it can be promoted; a version that is proved bad goes earlier.
        max_wait_s: At each step. Then what was seen decides; fewer requests than `min_requests` decide against it.
        error_margin: Its share of errors may be this much above the stable one's.
        latency_factor: Its p99 may be this many times the stable one's.
        score_distance: How the distributions of probabilities are compared.
        score_limit: The largest distance.
        auc_margin: Its ROC AUC may be this much below the stable one's, where labels came.
        min_labels: Labels of each of the two, below which ROC AUC is not compared.
        confidence: That a good version is not rolled back by chance, nor one promoted that errs or is slow; at each
            step.
    """

    min_requests: int = Field(default=500, ge=1)
    max_wait_s: float = Field(default=3600.0, gt=0)
    error_margin: float = Field(default=0.01, gt=0, lt=1)
    latency_factor: float = Field(default=1.5, ge=1)
    score_distance: Literal["psi", "ks"] = "psi"
    score_limit: float = Field(default=0.2, gt=0)
    auc_margin: float = Field(default=0.02, gt=0, lt=1)
    min_labels: int = Field(default=1000, ge=10)
    confidence: float = Field(default=0.99, ge=0.5, lt=1)


class Canary(Frozen):
    """How a release comes to its traffic.

    Attributes:
        shadow: Copy live requests to it first, and look at its answers before anybody gets one.
        steps: Shares of the traffic, rising; it is judged at each.
        watch_s: For how long it is watched once it has all traffic, with the version before it still loaded.
        judging: By what.
        interrupted: When its task is stopped before the release has all traffic: the next run goes on where it stood,
            or traffic goes back to the stable version at once.
    """

    shadow: bool = True
    steps: tuple[float, ...] = (0.01, 0.1, 0.5)
    watch_s: float = Field(default=600.0, ge=0)
    judging: Judging = Judging()
    interrupted: Literal["continue", "roll_back"] = "continue"

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if any(not 0 < share < 1 for share in self.steps):
            raise ValueError("steps: each is a share between 0 and 1, as in (0.01, 0.1, 0.5); all traffic comes after")
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"steps: {', '.join(f'{share:g}' for share in self.steps)} do not rise; sort them")
        return self


class Serving(Frozen):
    """How a release is served online.

    Attributes:
        golden_rows: Rows of the test split that are kept with the release as golden requests.
        builder: ``fn(module: torch.nn.Module, preprocessing: Preprocessing) -> tf.Module`` for a network with operators
            that the built-in conversion does not know; None uses that.
        probe_timeout_s: How long a release waits for the server to load the model and answer them.
        online: What the gateway promises.
        canary: How a release comes to its traffic; None gives it all of it at once.
    """

    golden_rows: int = Field(default=32, ge=1, le=1000)
    builder: EntryPoint | None = None
    probe_timeout_s: float = Field(default=120.0, gt=0)
    online: Online = Online()
    canary: Canary | None = None


class Scoring(Frozen):
    """Nightly scoring by the champion.

    Attributes:
        threshold: A probability at or above it is a positive decision.
        batch_rows: Rows in memory at a time.
    """

    threshold: float = Field(default=0.5, gt=0, lt=1)
    batch_rows: int = Field(default=8192, ge=1)
