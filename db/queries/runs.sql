-- Load tests. A run is inserted when it starts and updated with its result.

-- name: run_id_exists
select exists (select from runs where run_id = %(run_id)s)
    or exists (select from orders where run_id = %(run_id)s) as found;

-- name: lock_starts
select set_config('lock_timeout', %(lock_timeout_ms)s, true), pg_advisory_xact_lock(hashtext('start of a load test'));

-- name: run_that_set_faults
-- A run that has started no order for longer than its drain and its verdict take was aborted.
select run_id from runs r
where ended_at is null and options ->> 'faults_since' = %(since)s
    and greatest(started_at, (select max(accepted_at) from orders where run_id = r.run_id))
        > now() - interval '1 second' * ((options ->> 'drain_seconds')::float8 + %(silent_seconds)s);

-- name: faults_left
-- The active fault profile, if a load test set it and has ended or was aborted. `faults_since` is the API's text.
select r.run_id, c.profile, r.options -> 'faults_before' as before
from (select at, profile from fault_changes order by change_id desc limit 1) c
join runs r on r.options ->> 'faults_since' = to_char(c.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
where r.ended_at is not null
    or greatest(r.started_at, (select max(accepted_at) from orders where run_id = r.run_id))
        < now() - interval '1 second' * ((r.options ->> 'drain_seconds')::float8 + %(silent_seconds)s);

-- name: restore_faults
insert into fault_changes (profile, seed, rates) values (%(profile)s, %(seed)s, %(rates)s);

-- name: open_run
insert into runs (
    run_id, scenario, options, stages, fault_profile, fault_seed, started_at, commit_hash, machine
)
values (
    %(run_id)s, %(scenario)s, %(options)s, %(stages)s, %(fault_profile)s, %(fault_seed)s, %(started_at)s,
    %(commit_hash)s, %(machine)s
)
on conflict (run_id) do nothing
returning run_id;

-- name: close_run
update runs set
    ended_at = %(ended_at)s,
    statistics = %(statistics)s,
    verdict = %(verdict)s,
    chaos = %(chaos)s,
    completion_ms = %(completion_ms)s,
    late_orders = %(late_orders)s,
    counted_orders = %(counted_orders)s
where run_id = %(run_id)s;

-- name: run
select run_id, scenario, options, stages, fault_profile, fault_seed, started_at, ended_at, commit_hash,
    machine, statistics, verdict, chaos, completion_ms, late_orders, counted_orders
from runs where run_id = %(run_id)s;

-- name: record_disturbance
insert into disturbances (at, component, action, run_id, is_planned)
values (%(at)s, %(component)s, %(action)s, %(run_id)s, %(is_planned)s);
