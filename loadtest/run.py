"""One run from its first check to its verdict, the same for the terminal and the web page."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import gevent
from locust.env import Environment

from db import runs
from db.read_models.stored_runs import RunTimes
from loadtest.chaos import disturbance_impact
from loadtest.chaos.runner import DisturbanceRunner
from loadtest.generator.api_client import ApiClient
from loadtest.generator.arrivals import planned_orders
from loadtest.generator.generators import GRACE_SECONDS, LoadGenerators, wait_until_drained
from loadtest.generator.recording import Tally
from loadtest.monitors import PROBE_SECONDS, InterimAudit, Outages
from loadtest.options import RunOptions
from loadtest.post_run import Afterwards, complete_audit
from loadtest.preflight import Faults, check_api, check_role, commit, machine
from loadtest.reports import files
from loadtest.reports.documents import orders_csv
from loadtest.verdict.comparison import compare_runs
from loadtest.verdict.percentiles import per_second
from loadtest.verdict.run_verdict import Verdict, compute_verdict
from loadtest.verdict.slo import SloVerdict, evaluate_slo
from loadtest.verdict.validity import RunObservations
from orchestrator.errors import OrderSystemError, ServiceUnavailable, UsageError
from orchestrator.rest_client import Json
from orchestrator.security.role_cache import look_up_role
from orchestrator.settings import Settings

log = logging.getLogger(__name__)


@contextmanager
def require_database() -> Iterator[None]:
    """Refuses a run whose database is away, before anything is stored."""
    try:
        yield
    except ServiceUnavailable:
        raise UsageError(
            "no database answers where runs are stored; is the stack up, and DATABASE_URL right?"
        ) from None


class Run:
    """A run of this process (local), or of its workers (master). `begin`, then `finish`, once each."""

    def __init__(
        self,
        environment: Environment,
        settings: Settings,
        api_url: str,
        options: RunOptions,
        generators: LoadGenerators,
        api_key: str | None = None,
    ) -> None:
        """Asks the API with `api_key`, or with the key of the settings."""
        self.options = options
        self.planned = planned_orders(options)
        self.verdict: Verdict | None = None
        self._environment = environment
        self._settings = settings
        self._api_url = api_url
        self._generators = generators
        self._api_key = api_key if api_key is not None else settings.api_key_text
        self._api = ApiClient(api_url, api_key=self._api_key)
        self._faults = Faults(self._api)
        self._chaos = DisturbanceRunner(options, api_url)
        self._outages = Outages(self._api)
        self.interim_audit = InterimAudit(
            api_url, self._api_key, options.run_id, lambda: generators.tally.broken_promises
        )
        self._probing: gevent.Greenlet[..., None] | None = None
        self._started_at = datetime.now(UTC)
        self._began = time.monotonic()
        self._is_stopped = False
        self._stopped_after: float | None = None
        self._new: runs.NewRun | None = None

    @property
    def tally(self) -> Tally:
        return self._generators.tally

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self._began

    @property
    def is_drained(self) -> bool:
        return self._generators.is_drained

    def check(self) -> None:
        """Refuses a run that cannot work, before anything is stored. Raises UsageError with one sentence."""
        check_api(self._api, self._api_url)
        check_role(look_up_role(self._api_url, self._api_key), self.options)
        database = self._settings.order_database_url
        set_since = None if self.options.faults is None else self._faults.in_force()["since"]
        with require_database():
            if runs.run_id_exists(database, self.options.run_id):
                raise UsageError(f"run id {self.options.run_id} was used before; choose another")
            if self.options.compare is not None:
                earlier = runs.find(database, self.options.compare)
                if earlier is None or earlier.completion_ms is None:
                    raise UsageError(f"there is no finished run {self.options.compare} to compare with")
            other = None if set_since is None else runs.run_that_set_faults(database, set_since)
            if other is not None:
                # Two runs cannot both have the faults they were asked to have.
                raise UsageError(
                    f"run {other} has set the fault profile and is not over; wait for its end or, if it has "
                    "died, set the profile yourself: python -m orchestrator faults set none"
                )
        self._chaos.prepare()

    def begin(self) -> None:
        """Stores that the run begins, sets its faults, and has the first order sent.

        Raises UsageError when the run id was taken, or a part of the system went away, in the meantime.
        """
        try:
            self._faults.begin(self.options)
        except ServiceUnavailable as error:
            raise UsageError(f"the run did not begin: {error}") from None
        # Asked before the zero: it takes a process of its own.
        commit_hash = commit()
        self._started_at, self._began = datetime.now(UTC), time.monotonic()
        self._new = runs.NewRun(
            run_id=self.options.run_id,
            scenario=self.options.scenario.value,
            options=self.options.to_json() | {"faults_since": self._faults.since},
            stages=self.options.to_json()["stages"],
            fault_profile=self._faults.profile,
            fault_seed=self._faults.seed,
            started_at=self._started_at,
            commit_hash=commit_hash,
            machine=machine(),
        )
        with require_database():
            is_new = runs.open_run(self._settings.order_database_url, self._new)
        if not is_new:
            raise UsageError(f"run id {self.options.run_id} was used before; choose another")
        self._generators.begin(self.options, self._api_url, self._api_key)
        if self._is_stopped:
            # Somebody stopped the run when nobody was there yet to be told.
            self._stopped_after = 0.0
            self._generators.stop()
            return
        self._chaos.begin()
        self._probing = gevent.spawn(self._outages.watch)
        if self.options.abort_on_breach:
            gevent.spawn(self._watch_hope)

    def stop(self) -> None:
        """Ends the arrivals before their time and brings back what chaos has taken away; `finish` follows."""
        self._is_stopped = True
        if self._stopped_after is None and self.seconds < self.options.seconds:
            self._stopped_after = self.seconds
        self._generators.stop()
        self._chaos.end()

    def release(self) -> None:
        """Leaves the stack as it was, also when the run broke off. What cannot be put back is logged."""
        self.interim_audit.end()
        if self._probing is not None:
            self._probing.kill()
        self._chaos.finish()
        try:
            self._faults.put_back()
        except OrderSystemError as error:
            log.error("the fault profile was not put back: %s", error)
        self._api.close()

    def finish(self) -> Verdict:
        """Drains, judges, stores and writes the reports. Blocks."""
        left = max(self.options.seconds - self.seconds, 0.0) if self._stopped_after is None else 0.0
        ahead = gevent.spawn(self._audit_ahead)
        is_drained = wait_until_drained(
            self._generators, left + self.options.drain_timeout_seconds + GRACE_SECONDS
        )
        drained = time.monotonic()
        disturbances = self._chaos.finish()
        if self._probing is not None:
            self._probing.kill()
            self._outages.settle()
        ahead.kill()
        self.interim_audit.end()
        ended_at = datetime.now(UTC)
        afterwards = Afterwards()
        afterwards.ask(self._faults.put_back, "the fault profile was not put back")
        audited = afterwards.ask(
            lambda: complete_audit(self._api_url, self._api_key, self.options.run_id),
            "the books were not audited",
        )
        latency = afterwards.ask(self._latency, "the steps of the orders are not known")
        tally = self._generators.tally
        observed = RunObservations(
            options=self.options,
            tally=tally,
            audit=audited,
            latency=latency,
            started_at=self._started_at,
            ended_at=ended_at,
            processes=self._generators.size,
            lost_workers=self._generators.lost,
            stopped_after=self._stopped_after,
            is_drained=is_drained,
            outages=self._outages.told(),
            disturbances=disturbance_impact.of(disturbances, tally.records, self.options.slo_seconds),
            context={
                "faults": {"profile": self._faults.profile, "seed": self._faults.seed},
                "commit": commit(),
                "machine": machine(),
            },
        )
        verdict = compute_verdict(observed)
        self._complete(verdict, ended_at, drained, afterwards)
        self.verdict = verdict
        return verdict

    @property
    def report_dir(self) -> Path:
        return self._settings.home / "reports" / self.options.run_id

    def _complete(self, verdict: Verdict, ended_at: datetime, drained: float, afterwards: Afterwards) -> None:
        """Compares, stores and writes the reports. What cannot be done is told in the verdict."""
        report = verdict.report
        report["report_dir"] = str(self.report_dir)
        completion = sorted(
            round(record.completion_ms) for record in self.tally.records if record.completion_ms is not None
        )
        times = RunTimes(completion, verdict.slo.late, verdict.slo.orders)
        earlier, new = self.options.compare, self._new
        if earlier is not None and new is not None:
            report["comparison"] = afterwards.ask(
                lambda: compare_runs(
                    new, times, earlier, runs.find(self._settings.order_database_url, earlier)
                ),
                "the runs were not compared",
            )
        finished = afterwards.ask(
            lambda: self._api.text(f"/latency.csv?run_id={self.options.run_id}"), "orders.csv is missing"
        )
        csv = None if finished is None else orders_csv(finished, self.tally.records, report)
        report["missing"] = afterwards.missing
        report["stored"] = True
        report["verdict_seconds"] = round(time.monotonic() - drained, 3)
        result = runs.RunResult(
            ended_at=ended_at,
            statistics=per_second(self.tally.records),
            verdict=report,
            chaos=report["disturbances"],
            completion_ms=completion,
            late_orders=verdict.slo.late,
            counted_orders=verdict.slo.orders,
        )
        stored = afterwards.ask(lambda: self._store(result), "the verdict was not stored in PostgreSQL")
        report["stored"] = stored is not None
        try:
            files.write_reports(self.report_dir, verdict, csv, self._environment)
            report["verdict_seconds"] = round(time.monotonic() - drained, 3)
            files.write_verdict(self.report_dir, verdict)
        except OSError as error:
            # The verdict is stored and shown: the run ends with its code.
            report["missing"].append(f"the reports were not written: {error}")

    def _audit_ahead(self) -> None:
        """Has most orders audited while the last ones are drained: how a workflow ended is asked once, so the
        audit of the verdict then has only these to ask about."""
        while not self._generators.tally.is_exhausted:
            gevent.sleep(PROBE_SECONDS)
        self.interim_audit.look()

    def _watch_hope(self) -> None:
        # A closed loop sends about as many as its rate would, at most.
        planned = self.options.orders_at_rate if self.planned is None else self.planned
        while not self.is_drained:
            late = min(self.tally.late_so_far, planned)
            if late and evaluate_slo(planned, late, self.options.slo_target).verdict is not SloVerdict.MET:
                # More orders prove nothing: even if all of them are on time, the target is not met.
                self.stop()
                return
            gevent.sleep(PROBE_SECONDS)

    def _store(self, result: runs.RunResult) -> bool:
        runs.close_run(self._settings.order_database_url, self.options.run_id, result)
        return True

    def _latency(self) -> Json:
        answer = self._api.get(f"/latency?run_id={self.options.run_id}", "latency")
        if not answer.is_ok:
            raise ServiceUnavailable(f"the latency summary answered {answer.status}")
        return answer.body
