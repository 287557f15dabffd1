"""Where things run: the base, the registry, computes, serving and alerts. Never part of a user's model file.

Credentials are not here either: a platform names Airflow connections, and whoever runs a job resolves them last.
"""

import re
from typing import Annotated, Literal
from urllib.parse import parse_qsl

from pydantic import AfterValidator, ConfigDict, Field

from airflow_ml.spec.base import Frozen

# As SQLAlchemy reads a user: a password goes on to the `@`, whatever is in it.
_USER_WITH_PASSWORD = re.compile(r"//[^:/@]*:[^@]*@")
_SECRET_NAME = re.compile(
    r"pass(word|wd|phrase)?$|pwd$|secret|token|credential|(^|[^a-z])(sig|auth)$|signature|authorization"
    r"|(api|access|account|shared|private)[-_]?key"
)
_SECRET_INSIDE = re.compile(r"(password|passwd|pwd|secret|token)\s*=", re.IGNORECASE)
"""In the value of a parameter: a whole ODBC connection string can be one."""


def _folder(value: str) -> str:
    scheme, remote, _ = value.partition("://")
    if remote:
        # The rest may hold a password.
        raise ValueError(f"'{scheme}://…': only folders of this machine are supported yet; give an absolute path")
    if not value.startswith("/"):
        raise ValueError(f"{value!r} is relative; give an absolute path, because tasks start in many folders")
    return value.rstrip("/") or "/"


Folder = Annotated[str, AfterValidator(_folder)]
"""A folder of this machine."""


def _without_secret(value: str) -> str:
    """Refuse an address that holds a secret: it would stand in requests, logs, links and error messages."""
    _, _, query = value.partition("?")
    pairs = parse_qsl(query.replace("#", "&").replace(";", "&"), keep_blank_values=False)
    named = [name for name, given in pairs if _SECRET_NAME.search(name.lower()) or _SECRET_INSIDE.search(given)]
    if named or _USER_WITH_PASSWORD.search(value):
        what = f"a secret in its parameter {named[0]!r}" if named else "a password"
        raise ValueError(f"the address holds {what}; put credentials into a connection, and name it in `connections`")
    return value


Address = Annotated[str, AfterValidator(_without_secret)]
"""A server's address or a URI, without credentials."""


class LocalCompute(Frozen):
    """A process of the machine that runs the task.

    Attributes:
        python: Interpreter; None is the running one.
        grace_s: Seconds between asking a job to end and ending it.
    """

    kind: Literal["local"] = "local"
    python: str | None = None
    grace_s: float = Field(default=5.0, ge=0)


class ServingTarget(Frozen):
    """The model server that releases go to.

    Attributes:
        folder: Base folder that the server reads; None is ``<base>/serving``.
        grpc: ``host:port``.
        rest: ``host:port``.
    """

    # A refused address may hold a password: messages do not repeat what was given.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    folder: Folder | None = None
    grpc: Address = "127.0.0.1:8500"
    rest: Address = "127.0.0.1:8501"


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


class Platform(Frozen):
    """One place where models live.

    Attributes:
        base: Folder of the lake, runs, registry and serving. A relative path is refused: tasks start in many folders.
        landing: Root of relative source paths; None is ``<base>/landing``.
        registry: MLflow tracking URI; None is a SQLite file below the base.
        registry_ui: Address of MLflow's pages, for links; None is the registry itself when it is an HTTP server.
        compute: For stages that `computes` does not name.
        computes: Stage name to compute.
        serving: The model server.
        alerts: Recipients.
        connections: Environment variable to Airflow connection id, for jobs that need credentials. Values are resolved
            by the compute at the last moment and never written into a request.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    base: Folder
    landing: Folder | None = None
    registry: Address | None = None
    registry_ui: Address | None = None
    compute: LocalCompute = LocalCompute()
    computes: dict[str, LocalCompute] = Field(default_factory=dict)
    serving: ServingTarget = ServingTarget()
    alerts: Alerts = Alerts()
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
        """Base folder of the model server."""
        return self.serving.folder or f"{self.base}/serving"

    def compute_for(self, stage: str) -> LocalCompute:
        """The compute that runs a stage."""
        return self.computes.get(stage, self.compute)
