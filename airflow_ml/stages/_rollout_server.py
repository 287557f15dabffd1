"""The model servers as a rollout of one model needs them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.lifecycle.releases import Release
from airflow_ml.stages.context import StageContext
from airflow_ml.storage import verify

if TYPE_CHECKING:
    from airflow_ml.serving.client import Client
    from airflow_ml.serving.targets.servers import ModelServers


class Server:
    """Versions and labels of one model, on all replicas.

    Args:
        servers: Of the platform.
        model_name: Whose.
        rest: ``host:port`` of the protocol that replicas are not told by; None where it is not asked.
        timeout_s: For how long a version may be waited for.
    """

    def __init__(self, servers: "ModelServers", model_name: str, rest: str | None, timeout_s: float) -> None:
        self.model = model_name
        self._servers = servers
        self._rest = rest
        self._timeout_s = timeout_s

    @contextmanager
    def client(self, address: str | None = None) -> "Iterator[Client]":
        """To ask one of `addresses`, by default the first."""
        from airflow_ml.serving.client import connect

        replicas = self._servers.replicas
        wanted = address or replicas[0]
        with self._servers.connect(wanted) if wanted in replicas else connect(wanted) as client:
            yield client

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every replica, and the address of the other protocol where it asks for no token or certificate."""
        return *self._servers.replicas, *([f"http://{self._rest}"] if self._rest else [])

    def require(self) -> None:
        """Make sure that every replica answers, before anything is changed for them.

        Raises:
            ServingError: Some do not.
        """
        self._servers.require()

    def publish(self, release: Release) -> None:
        """Put the release's SavedModel where the servers find it."""
        saved_model = verify(release.saved_model.uri, release.saved_model.sha256)
        self._servers.publish(saved_model, self.model, release.version)

    def published(self, version: int) -> bool:
        """Whether a version is there to be loaded."""
        return self._servers.published(self.model, version)

    def configured(self) -> set[int]:
        """Versions that they are told to load."""
        return set(self._servers.configured(self.model).versions)

    def labels(self) -> dict[str, int]:
        """Label → version."""
        return self._servers.configured(self.model).labels

    def serve(self, versions: set[int]) -> None:
        """Have them load exactly these versions of the model."""
        self._servers.serve(self.model, versions)

    def wait_available(self, version: int) -> None:
        """Wait until a version answers on every replica.

        Raises:
            ServingError: One cannot load it, or not in time.
        """
        self._servers.wait_available(self.model, version, self._timeout_s)

    def available(self, version: int) -> bool:
        """Whether a version answers everywhere now."""
        try:
            return version in self.configured() and not self._servers.lagging(self.model, version)
        except ServingError:
            return False

    def label(self, label: str, version: int | None, way_back: bool) -> None:
        """Point a label at a version, or take it away."""
        self._servers.label(self.model, label, version, way_back=way_back)

    def wait_label(self, label: str, version: int, way_back: bool) -> None:
        """Wait until requests for a label are answered by a version."""
        self._servers.wait_label(self.model, label, version, self._timeout_s, way_back=way_back)


@contextmanager
def serving(ctx: StageContext) -> Iterator[Server]:
    """The servers of the platform, for the model of a request."""
    from airflow_ml.serving.targets.opening import open_servers

    with open_servers(ctx.platform) as servers:
        target = ctx.platform.serving
        rest = target.rest if target.conn_id is None else None
        yield Server(servers, ctx.model.name, rest, ctx.model.serving.probe_timeout_s)
