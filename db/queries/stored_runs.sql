-- Stored load tests.

-- name: newest_runs
select run_id, scenario, fault_profile, started_at, ended_at, verdict ->> 'verdict' as verdict,
    (verdict ->> 'exit_code')::int as exit_code, late_orders, counted_orders,
    (verdict -> 'run' ->> 'offered_rate')::float8 as offered_rate,
    (verdict -> 'times' -> 'completion_ms' ->> 'p99')::float8 as p99_ms
from runs order by started_at desc limit %(limit)s;

-- name: verdict
select run_id, scenario, started_at, ended_at, verdict from runs where run_id = %(run_id)s;

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
