"""Masters and workers of distributed runs."""

import pytest

from tests.load.fake_api import Behaviour
from tests.load.harness import LoadTest, fake_api, interrupt, wait_for_line
from tests.load.test_exit_codes import QUICK


def test_a_master_beyond_loopback_needs_api_keys(load_test: LoadTest) -> None:
    with fake_api() as api:
        options = ("--master", "--master-bind-host=0.0.0.0", f"--master-port={load_test.port_base + 9}")
        found = load_test.run(api, *QUICK, *options)
    assert found.code == 2
    assert "the master of the load tests cannot listen on 0.0.0.0 without API keys" in found.output


def test_a_master_listens_on_its_bind_address(load_test: LoadTest) -> None:
    port = f"--master-port={load_test.port_base + 9}"
    with fake_api(Behaviour(completion_ms=100)) as api:
        worker = load_test.start("run", "--worker", "--master-host=127.0.0.2", port, f"--host={api.url}")
        try:
            options = (*QUICK, "--slo-target=0.5", "--master", "--master-bind-host=127.0.0.2", port)
            found = load_test.run(api, *options)
        finally:
            worker.kill()
            worker.communicate()
    assert found.code == 0, found.output
    assert found.run["offered"] == 60


def test_a_worker_uses_the_api_of_its_own_options(load_test: LoadTest) -> None:
    port = f"--master-port={load_test.port_base + 9}"
    with fake_api(Behaviour(completion_ms=100)) as api, fake_api(Behaviour(completion_ms=100)) as other:
        worker = load_test.start("run", "--worker", port, f"--host={api.url}")
        try:
            load_test.run(other, *QUICK, "--master", port)
        finally:
            worker.kill()
            worker.communicate()
        assert len(api.truth()["orders"]) == 60
        assert other.truth()["orders"] == {}


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_a_master_waits_for_its_workers_for_a_limited_time(load_test: LoadTest, is_interrupted: bool) -> None:
    options = ("--master", "--expect-workers=2", "--expect-workers-max-wait=3")
    with (
        fake_api() as api,
        load_test.started(api, *QUICK, *options, f"--master-port={load_test.port_base + 9}") as process,
    ):
        line = wait_for_line(process, containing="Waiting for")
        if is_interrupted:
            interrupt(process)
        found = load_test.finished(process)

    assert line == "Waiting for 2 workers, at most 3 s; 0 connected so far.\n"
    sentence = "Interrupted while waiting for" if is_interrupted else "0 of 2 workers connected within 3 s"
    assert found.output.startswith(sentence)
    assert len(found.output.splitlines()) == 1
    assert found.code == (6 if is_interrupted else 2)
    assert load_test.stored() is None
