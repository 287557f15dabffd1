"""A TensorFlow Serving server as Airflow knows it: a connection of type ``tf_serving``."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseHook

from airflow_ml.lifecycle.errors import AirflowMLError

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_ml.serving.client import AsyncClient, Client
    from airflow_ml.serving.connections import Handed

_NOBODY = "airflow-ml-connection-test"


class TFServingHook(BaseHook):
    """Clients of one server, with the deadline, certificates and token of its connection.

    The connection's host and port say where, its password is the token, its extras are ``protocol`` (grpc or http),
    ``tls``, ``ca``, ``certificate``, ``key`` (PEM, or paths) and ``deadline_s``.

    Args:
        tf_serving_conn_id: The connection.
    """

    conn_name_attr: ClassVar[str] = "tf_serving_conn_id"
    default_conn_name: ClassVar[str] = "tf_serving_default"
    conn_type: ClassVar[str] = "tf_serving"
    hook_name: ClassVar[str] = "TensorFlow Serving"

    def __init__(self, tf_serving_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.conn_id = tf_serving_conn_id

    def get_conn(self) -> "Client":
        """A client; it is a context manager.

        Raises:
            SpecError: The connection has no host, or an extra that means nothing.
            ServingError: Its certificates cannot be used.
        """
        from airflow_ml.serving.client import connect

        return connect(**self._arguments(self.get_connection(self.conn_id)))

    async def aget_conn(self) -> "AsyncClient":
        """A client for the running event loop, as triggers need it; it is an asynchronous context manager.

        Raises:
            SpecError: The connection has no host, or an extra that means nothing.
            ServingError: Its certificates cannot be used.
        """
        from airflow_ml.serving.client import connect_async

        return connect_async(**self._arguments(await self.aget_connection(self.conn_id)))

    def test_connection(self) -> tuple[bool, str]:
        """Whether a model server answers; it is asked for a model that it does not have."""
        try:
            from airflow_ml.serving.errors import ModelNotServed

            with self.get_conn() as client:
                with suppress(ModelNotServed):
                    client.status(_NOBODY)
                return True, f"a model server answers at {client.address}"
        except AirflowMLError as error:
            return False, str(error)
        except ImportError as error:
            return False, f"{error}: install airflow-ml[serving] where Airflow's API server runs"

    def _arguments(self, connection: "Connection") -> dict[str, Any]:
        from airflow_ml.serving.connections import client_arguments

        return client_arguments(handed(connection, self.conn_id))


def handed(connection: "Connection", conn_id: str) -> "Handed":
    """What a job needs of a connection."""
    from airflow_ml.serving.connections import Handed

    extra = {name: value for name, value in connection.extra_dejson.items() if value not in (None, "")}
    return Handed(conn_id, connection.host or "", connection.port, extra, connection.password or "")
