-- Stored load tests.

-- name: newest_runs
-- The newest runs, or one run. `last_accepted_at` is null for a run that has ended.
select run_id, label, notes, run_id = (select b.run_id from baseline_run b) is true as is_baseline, scenario,
    fault_profile, options, started_at, ended_at,
    case when ended_at is null then (select max(accepted_at) from orders o where o.run_id = runs.run_id) end as last_accepted_at,
    verdict ->> 'verdict' as verdict,
    (verdict ->> 'exit_code')::int as exit_code, late_orders, counted_orders,
    (verdict -> 'run' ->> 'offered_rate')::float8 as offered_rate,
    (verdict -> 'run' ->> 'completed_rate')::float8 as completed_rate,
    (verdict -> 'times' -> 'completion_ms' ->> 'p50')::float8 as p50_ms,
    (verdict -> 'times' -> 'completion_ms' ->> 'p99')::float8 as p99_ms
from runs where %(run_id)s::text is null or run_id = %(run_id)s
order by started_at desc limit %(limit)s;

-- name: change_run
-- Changes the given properties; null leaves `is_baseline` unchanged. Returns no row for an unknown run.
with changed as (
    update runs set
        label = case when %(sets_label)s then %(label)s else label end,
        notes = coalesce(%(notes)s, notes)
    where run_id = %(run_id)s returning run_id
), pinned as (
    insert into baseline_run (run_id) select run_id from changed where %(is_baseline)s::boolean
    on conflict (is_only) do update set run_id = excluded.run_id
), unpinned as (
    delete from baseline_run where run_id = %(run_id)s and not %(is_baseline)s::boolean
)
select run_id from changed;

-- name: delete_run
-- Deletes a run that has ended or was aborted: it has started no order for longer than its drain and its verdict take.
with found as (
    select run_id, ended_at is not null
        or greatest(started_at, (select max(accepted_at) from orders o where o.run_id = r.run_id))
            < now() - interval '1 second' * ((options ->> 'drain_seconds')::float8 + %(silent_seconds)s) as is_over
    from runs r where run_id = %(run_id)s
), deleted as (
    delete from runs where run_id in (select run_id from found where is_over)
)
select is_over from found;

-- name: verdict
select run_id, scenario, started_at, ended_at, verdict from runs where run_id = %(run_id)s;

-- name: setup
select run_id, scenario, options, stages, fault_profile, fault_seed, started_at, commit_hash, machine
from runs where run_id = %(run_id)s;

-- name: times
select completion_ms, late_orders, counted_orders, (options ->> 'slo_seconds')::float8 as slo_seconds
from runs where run_id = %(run_id)s and ended_at is not null;

-- name: running_runs
-- Runs of the last day without an end, newest first, with their order counts. Reads only orders in flight:
-- finished orders are counted by the rollup.
with running as materialized (
    select run_id, count(*) as orders, count(*) filter (where limit_at < now()) as overdue
    from orders where state < 'completed' group by run_id
)
select r.run_id, r.scenario, r.started_at, r.options, r.fault_profile,
    coalesce(o.orders, 0) + n.finished as accepted, coalesce(o.orders, 0) as in_flight, n.finished,
    coalesce(o.overdue, 0) + n.late as late,
    (select max(accepted_at) from orders where run_id = r.run_id) as last_accepted_at
from runs r
left join running o using (run_id)
cross join lateral (
    select coalesce(sum(l.orders), 0)::bigint as finished, coalesce(sum(l.late), 0)::bigint as late
    from latency_rollup l where l.grain_seconds = 86400 and l.run_id = r.run_id and l.run_id <> ''
) n
where r.ended_at is null and r.started_at > now() - interval '1 day'
order by r.started_at desc limit 5;
