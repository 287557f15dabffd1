"""Where things run: the base, the registry, computes, serving and alerts. Never part of a user's model file.

Credentials are not here either: a platform names Airflow connections, and whoever runs a job resolves them last.
"""

from pydantic import ConfigDict, Field

from airflow_ml.spec.base import Frozen
from airflow_ml.spec.computes import AnyCompute, LocalCompute
from airflow_ml.spec.places import Address, Folder, FolderOrBucket
from airflow_ml.spec.targets import ServingTarget


class Alerts(Frozen):
    """Where alerts go.

    Attributes:
        smtp_conn_id: Airflow connection of the SMTP provider; None sends nothing.
        to: Recipients.
        sender: From address.
    """

    smtp_conn_id: str | None = None
    to: tuple[str, ...] = ()
    sender: str = "airflow-ml@localhost"


class Prices(Frozen):
    """What the machines of trainings cost; 0 counts hours only.

    Attributes:
        gpu_hour: Of one GPU.
        cpu_hour: Of one core.
        currency: Shown beside the cost.
    """

    gpu_hour: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    cpu_hour: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    currency: str = Field(default="EUR", min_length=1, max_length=8)


class Platform(Frozen):
    """One place where models live.

    Attributes:
        base: Folder of the lake, runs, registry and serving. A relative path is refused: tasks start in many folders.
        landing: Root of relative source paths; None is ``<base>/landing``.
        checkpoints: Where trainings keep theirs, a folder or ``s3://bucket/prefix``; None is below the base, beside
            their results.
        registry: MLflow tracking URI; None is a SQLite file below the base.
        registry_ui: Address of MLflow's pages, for links; None is the registry itself when it is an HTTP server.
        compute: For stages that `computes` does not name.
        computes: Stage name to compute.
        serving: The model servers.
        alerts: Recipients.
        prices: Of what trainings take.
        connections: Environment variable to Airflow connection id, for jobs that need credentials. Values are resolved
            by the compute at the last moment and never written into a request.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    base: Folder
    landing: Folder | None = None
    checkpoints: FolderOrBucket | None = None
    registry: Address | None = None
    registry_ui: Address | None = None
    compute: AnyCompute = LocalCompute()
    computes: dict[str, AnyCompute] = Field(default_factory=dict)
    serving: ServingTarget = ServingTarget()
    alerts: Alerts = Alerts()
    prices: Prices = Prices()
    connections: dict[str, str] = Field(default_factory=dict)

    @property
    def landing_root(self) -> str:
        """Folder that relative source paths start from."""
        return self.landing or f"{self.base}/landing"

    @property
    def registry_uri(self) -> str:
        """MLflow tracking URI."""
        return self.registry or f"sqlite:///{self.base}/registry/mlflow.db"

    @property
    def serving_folder(self) -> str:
        """Where versions are published: a folder, or ``s3://bucket/prefix``."""
        return self.serving.folder or f"{self.base}/serving"

    @property
    def config_folder(self) -> str:
        """Folder of the servers' ``models.config``, where it is a file: beside the versions, if these are on a disk."""
        folder = self.serving_folder
        return f"{self.base}/serving" if folder.startswith("s3://") else folder

    def compute_for(self, stage: str, kind: str | None = None) -> AnyCompute:
        """The compute that runs a stage.

        Args:
            stage: Its name.
            kind: Of the compute, where a task asks for one; a local process needs no declaration.

        Raises:
            ValueError: The platform declares none of this kind.
        """
        declared = [*([self.computes[stage]] if stage in self.computes else []), self.compute]
        if kind is None:
            return declared[0]
        declared += [*self.computes.values(), LocalCompute()]
        found = [compute for compute in declared if compute.kind == kind]
        if not found:
            raise ValueError(f"the platform declares no compute of kind {kind!r}")
        return found[0]
