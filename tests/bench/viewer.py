"""A dashboard session without a browser, over Streamlit's WebSocket."""

import time

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from orchestrator.settings import LOOPBACK

RESPONSE_SECONDS = 30.0
_SUCCEEDED = (ForwardMsg.FINISHED_SUCCESSFULLY, ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY)


class Viewer:
    """One open page. `intervals` are the refresh intervals of its live fragments, in seconds."""

    def __init__(self, port: int, page: str, query: str = "") -> None:
        self._page, self._query = page, query
        self.intervals: dict[str, float] = {}
        self._drawn: set[str] = set()
        self._socket: ClientConnection = connect(
            f"ws://{LOOPBACK}:{port}/_stcore/stream",
            subprotocols=[Subprotocol("streamlit")],
            max_size=None,
            proxy=None,
        )

    def __enter__(self) -> "Viewer":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def run_page(self) -> float:
        """Run the whole page, with what it draws later, and return the time in ms.

        Raises AssertionError when the page fails.
        """
        before = set(self._drawn)
        first = self._run(BackMsg())
        return first if self._drawn == before else first + self._run(BackMsg())

    def refresh_all(self) -> float:
        """Refresh all live fragments and return the time in ms."""
        return sum(self.refresh(fragment_id) for fragment_id in list(self.intervals))

    def refresh(self, fragment_id: str) -> float:
        """Refresh one live fragment and return the time in ms."""
        message = BackMsg()
        message.rerun_script.fragment_id = fragment_id
        message.rerun_script.is_auto_rerun = True
        return self._run(message)

    def _run(self, message: BackMsg) -> float:
        message.rerun_script.query_string = self._query
        message.rerun_script.page_name = self._page
        for component in self._drawn:
            message.rerun_script.widget_states.widgets.add(id=component, json_value='{"is_drawn": true}')
        began = time.perf_counter()
        self._socket.send(message.SerializeToString())
        while True:
            response = ForwardMsg()
            response.ParseFromString(bytes(self._socket.recv(RESPONSE_SECONDS, decode=False)))
            if response.HasField("auto_rerun"):
                self.intervals[response.auto_rerun.fragment_id] = response.auto_rerun.interval
            elif response.HasField("delta") and response.delta.new_element.HasField("exception"):
                raise AssertionError(f"the page {self._page or 'overview'} raised an exception")
            elif response.HasField("delta") and response.delta.new_element.HasField("bidi_component"):
                self._drawn.add(response.delta.new_element.bidi_component.id)
            elif response.HasField("script_finished"):
                assert response.script_finished in _SUCCEEDED, (
                    f"the page {self._page or 'overview'} did not finish"
                )
                return (time.perf_counter() - began) * 1000
