"""One run from its preflight to its verdict, for the terminal and for the web UI."""

import logging
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import gevent
import gevent.lock
from locust.env import Environment

from db import runs
from db.read_models.stored_runs import RunTimes
from loadtest.chaos.disturbance_impact import impact_of
from loadtest.chaos.fault_profile import FaultProfile
from loadtest.chaos.runner import DisturbanceRunner
from loadtest.generator.api_client import ApiClient, NoResponse
from loadtest.generator.arrivals import planned_orders
from loadtest.generator.generators import GRACE_SECONDS, POLL_SECONDS, LoadGenerators
from loadtest.generator.recording import Ending, Tally
from loadtest.monitors import PROBE_SECONDS, OutageMonitor
from loadtest.options import RunOptions
from loadtest.post_run import PostRunCalls, audit_run, complete_audit
from loadtest.preflight import check_api, check_role, check_stored_runs, require_database, used_run_id
from loadtest.reports import files
from loadtest.reports.documents import orders_csv
from loadtest.reports.run_details import read_details
from loadtest.reports.run_metadata import commit, machine, versions
from loadtest.verdict.comparison import compare_runs
from loadtest.verdict.percentiles import per_second
from loadtest.verdict.run_verdict import Verdict, compute_verdict
from loadtest.verdict.slo import allowed_share
from loadtest.verdict.validity import RunObservations
from orchestrator.errors import OrderSystemError, ServiceUnavailable, UsageError
from orchestrator.rest_client import Json
from orchestrator.security.role_cache import look_up_role
from orchestrator.settings import Settings

log = logging.getLogger(__name__)


class Run:
    """A run of this process, or of its workers if it is a master. Call `begin`, then `finish`, once each."""

    def __init__(
        self,
        environment: Environment,
        settings: Settings,
        api_url: str,
        options: RunOptions,
        generators: LoadGenerators,
        api_key: str | None = None,
    ) -> None:
        """Without `api_key`, the key of the settings is used."""
        self.options = options
        self.planned = planned_orders(options)
        self.verdict: Verdict | None = None
        self._environment = environment
        self._settings = settings
        self._database_url = settings.order_database_url
        self._api_url = api_url
        self._generators = generators
        self._api_key = api_key if api_key is not None else settings.api_key_text
        self._api = ApiClient(api_url, api_key=self._api_key)
        self._faults = FaultProfile(self._api)
        self._disturbances = DisturbanceRunner(options, api_url)
        self._outages = OutageMonitor(self._api)
        self._started_at = datetime.now(UTC)
        self._began = time.monotonic()
        self._is_stopped = False
        self._stopped_after: float | None = None
        self._new_run: runs.NewRun | None = None
        self._watching: list[gevent.Greenlet[..., None]] = []
        self._releasing = gevent.lock.RLock()

    @property
    def tally(self) -> Tally:
        return self._generators.tally

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    @property
    def is_drained(self) -> bool:
        return self._generators.is_drained

    @property
    def report_dir(self) -> Path:
        return self._settings.home / "reports" / self.options.run_id

    def check(self) -> None:
        """Run the preflight checks and prepare the disturbances. Raises UsageError."""
        if self.report_dir.exists():
            # A run in another database used this id. Its files would be mixed with the files of this run.
            raise used_run_id(self.options.run_id)
        check_api(self._api, self._api_url)
        check_role(look_up_role(self._api_url, self._api_key), self.options)
        self._check_stored_runs()
        self._disturbances.prepare()

    def begin(self) -> None:
        """Set the fault profile, store the run and send the first order.

        Raises UsageError if the run id was used, or a component became unavailable, since `check`.
        """
        # Read the commit before the clock of the run starts, because this runs git.
        commit_hash = commit()
        with require_database(), runs.one_start_at_a_time(self._database_url):
            try:
                # Another run may have started since `check`.
                self._check_stored_runs()
                self._faults.begin(self.options)
            except NoResponse as error:
                raise UsageError(f"The run did not begin: {error}") from None
            self._open(commit_hash)
        self._generators.begin(self.options, self._api_url, self._api_key)
        if self._is_stopped:
            # The run was stopped before the generators existed.
            self._stopped_after = 0.0
            self._generators.stop()
            return
        self._disturbances.begin()
        self._watching = [gevent.spawn(self._outages.watch)]
        if self.options.abort_on_breach:
            self._watching.append(gevent.spawn(self._stop_on_breach))

    def _check_stored_runs(self) -> None:
        faults_since = None if self.options.faults is None else self._faults.active()["since"]
        check_stored_runs(self._database_url, self.options, faults_since)

    def _open(self, commit_hash: str | None) -> None:
        self._started_at, self._began = datetime.now(UTC), time.monotonic()
        options = self.options.to_json()
        self._new_run = runs.NewRun(
            run_id=self.options.run_id,
            scenario=self.options.scenario.value,
            options=options | {"faults_since": self._faults.since, "faults_before": self._faults.before},
            stages=options["stages"],
            fault_profile=self._faults.profile,
            fault_seed=self._faults.seed,
            started_at=self._started_at,
            commit_hash=commit_hash,
            machine=machine(),
        )
        if not runs.open_run(self._database_url, self._new_run):
            raise used_run_id(self.options.run_id)

    def stop(self) -> None:
        """Stop sending, and start stopped and paused components. `finish` must still be called."""
        self._is_stopped = True
        if self._stopped_after is None and self.seconds < self.options.seconds:
            self._stopped_after = self.seconds
        self._generators.stop()
        self._disturbances.end()

    def release(self) -> None:
        """Restore the stack, also after a failed run. A profile that cannot be restored is logged.

        May be called again, also while another greenlet restores.
        """
        with self._releasing:
            gevent.killall(self._watching)
            self._disturbances.finish()
            try:
                self._faults.restore()
            except OrderSystemError as error:
                log.error("the fault profile was not restored: %s", error)
            self._api.close()

    def finish(self) -> Verdict:
        """Drain, compute the verdict, store it and write the reports. Blocks."""
        self._watching.append(gevent.spawn(self._audit_while_draining))
        is_drained = self._wait_until_drained()
        drained = time.monotonic()
        disturbances = self._disturbances.finish()
        gevent.killall(self._watching)
        self._outages.finish()
        calls = PostRunCalls()
        observed = self._observe(calls, disturbances, is_drained)
        verdict = compute_verdict(observed)
        self._publish(verdict, calls, observed.ended_at, drained)
        self.verdict = verdict
        return verdict

    def _wait_until_drained(self) -> bool:
        """Return whether all processes have drained in time. A stop of the run moves the deadline."""
        while not self.is_drained:
            sending = self.options.seconds if self._stopped_after is None else self._stopped_after
            if self.seconds > sending + self.options.drain_timeout_seconds + GRACE_SECONDS:
                return False
            gevent.sleep(POLL_SECONDS)
        return True

    def _observe(self, calls: PostRunCalls, disturbances: list[Json], is_drained: bool) -> RunObservations:
        ended_at = datetime.now(UTC)
        calls.attempt(self._faults.restore, "the fault profile was not restored")
        audit = calls.attempt(lambda: complete_audit(self._audit), "the database was not audited")
        latency = calls.attempt(self._latency, "the latency of the steps is missing")
        return RunObservations(
            options=self.options,
            tally=self.tally,
            audit=audit,
            latency=latency,
            started_at=self._started_at,
            ended_at=ended_at,
            processes=self._generators.size,
            lost_workers=self._generators.lost,
            failures=self._generators.failures,
            stopped_after=self._stopped_after,
            is_drained=is_drained,
            outages=self._outages.outages(),
            disturbances=impact_of(disturbances, self.tally.records, self.options.slo_seconds),
            context={
                "faults": {"profile": self._faults.profile, "seed": self._faults.seed},
                "commit": commit(),
                "machine": machine(),
                "versions": versions(),
            },
        )

    def _publish(self, verdict: Verdict, calls: PostRunCalls, ended_at: datetime, drained: float) -> None:
        """Compare, store and write the verdict. Failed calls are listed in the verdict itself."""
        report, records = verdict.report, self.tally.records
        report["report_dir"] = str(self.report_dir)
        completion = [
            None if record.completion_ms is None else round(record.completion_ms)
            for record in sorted(records, key=lambda record: record.due)
            if record.ending != Ending.REJECTED or record.late
        ]
        times = RunTimes.of(completion, verdict.slo.late, verdict.slo.orders, self.options.slo_seconds)
        earlier, new = self.options.compare, self._new_run
        if earlier is not None and new is not None:
            report["comparison"] = calls.attempt(
                lambda: compare_runs(new, times, earlier, runs.find(self._database_url, earlier)),
                "the runs were not compared",
            )
        finished_csv = calls.attempt(
            lambda: self._api.text(f"/latency.csv?run_id={self.options.run_id}"), "orders.csv is missing"
        )
        csv = None if finished_csv is None else orders_csv(finished_csv, records, report)
        details = calls.attempt(
            lambda: read_details(self._database_url, report),
            "report.html has no steps and no slowest orders",
        )
        report["missing"] = calls.failures
        report["stored"] = True
        report["verdict_seconds"] = round(time.monotonic() - drained, 3)
        result = runs.RunResult(
            ended_at=ended_at,
            statistics=per_second(records),
            verdict=report,
            chaos=report["disturbances"],
            completion_ms=completion,
            late_orders=verdict.slo.late,
            counted_orders=verdict.slo.orders,
        )
        stored = calls.attempt(lambda: self._store(result), "the verdict was not stored in PostgreSQL")
        report["stored"] = stored is not None
        try:
            files.write_reports(self.report_dir, verdict, records, details, csv, self._environment)
            report["verdict_seconds"] = round(time.monotonic() - drained, 3)
            files.write_verdict(self.report_dir, verdict)
        except OSError as error:
            # The verdict is already stored, and decides the exit code.
            report["missing"].append(f"the reports were not written: {error}")

    def _audit_while_draining(self) -> None:
        """Audit most orders before the end of the drain.

        The API reads the result of a workflow only once, so the final audit reads only the last workflows.
        """
        while not self.tally.is_exhausted:
            gevent.sleep(PROBE_SECONDS)
        with suppress(OrderSystemError):
            self._audit()

    def _stop_on_breach(self) -> None:
        """Stop once the target is missed, even if all further orders are on time."""
        planned = self.options.orders_at_rate if self.planned is None else self.planned
        allowed = allowed_share(self.options.slo_target)
        while not self.is_drained:
            tally = self.tally
            if tally.late_so_far > allowed * (planned - tally.skipped - tally.excluded):
                self.stop()
                return
            gevent.sleep(PROBE_SECONDS)

    def _store(self, result: runs.RunResult) -> bool:
        runs.close_run(self._database_url, self.options.run_id, result)
        return True

    def _audit(self) -> Json:
        return audit_run(self._api_url, self._api_key, self.options.run_id)

    def _latency(self) -> Json:
        response = self._api.get(f"/latency?run_id={self.options.run_id}")
        if not response.is_ok:
            raise ServiceUnavailable(f"the latency summary returned HTTP status {response.status}")
        return response.body
