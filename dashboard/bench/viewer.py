"""A viewer without a browser: opens a page of a running dashboard and follows its ticks as one would."""

import time
from types import TracebackType

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from orchestrator.settings import LOOPBACK

ANSWER_SECONDS = 30.0
_SUCCEEDED = (ForwardMsg.FINISHED_SUCCESSFULLY, ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY)


class Viewer:
    """One open page. `ticks` are the parts that it refreshes by itself, each with its interval in seconds."""

    def __init__(self, port: int, page: str, query: str = "") -> None:
        self._page, self._query = page, query
        self.ticks: dict[str, float] = {}
        self._socket: ClientConnection = connect(
            f"ws://{LOOPBACK}:{port}/_stcore/stream",
            subprotocols=[Subprotocol("streamlit")],
            max_size=None,
            proxy=None,
        )

    def __enter__(self) -> "Viewer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def show(self) -> float:
        """Runs the whole page; returns how long that took, in ms. Raises AssertionError when it failed."""
        return self._run(BackMsg())

    def tick(self) -> float:
        """Refreshes every part of the page that refreshes by itself; returns how long that took, in ms."""
        return sum(self.refresh(part) for part in list(self.ticks))

    def refresh(self, part: str) -> float:
        """Refreshes one part; returns how long that took, in ms."""
        message = BackMsg()
        message.rerun_script.fragment_id = part
        message.rerun_script.is_auto_rerun = True
        return self._run(message)

    def _run(self, message: BackMsg) -> float:
        message.rerun_script.query_string = self._query
        message.rerun_script.page_name = self._page
        began = time.perf_counter()
        self._socket.send(message.SerializeToString())
        while True:
            answer = ForwardMsg()
            answer.ParseFromString(bytes(self._socket.recv(ANSWER_SECONDS, decode=False)))
            if answer.HasField("auto_rerun"):
                self.ticks[answer.auto_rerun.fragment_id] = answer.auto_rerun.interval
            elif answer.HasField("delta") and answer.delta.new_element.HasField("exception"):
                raise AssertionError(f"the page {self._page or 'now'} ended with an exception")
            elif answer.HasField("script_finished"):
                assert answer.script_finished in _SUCCEEDED, f"the page {self._page or 'now'} was not shown"
                return (time.perf_counter() - began) * 1000
