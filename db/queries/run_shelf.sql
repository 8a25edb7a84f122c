-- Load tests as the dashboard shows them.

-- name: shelf
-- The newest runs in brief.
select run_id, scenario, fault_profile, started_at, ended_at, verdict ->> 'verdict' as verdict,
    (verdict ->> 'exit_code')::int as exit_code, late_orders, counted_orders,
    (verdict -> 'run' ->> 'offered_rate')::float8 as offered_rate,
    (verdict -> 'times' -> 'completion_ms' ->> 'p99')::float8 as p99_ms
from runs order by started_at desc limit %(limit)s;

-- name: verdict
select run_id, scenario, started_at, ended_at, verdict from runs where run_id = %(run_id)s;

-- name: times
select completion_ms, late_orders, counted_orders from runs where run_id = %(run_id)s and ended_at is not null;

-- name: under_way
-- Runs without an end that began within a day, the newest first, each with its orders so far.
select r.run_id, r.scenario, r.started_at, r.options, r.fault_profile, n.*
from runs r cross join lateral (
    select count(*) as accepted,
        count(*) filter (where o.state < 'completed') as in_flight,
        count(*) filter (where o.finished_at is not null) as finished,
        count(*) filter (where not o.within_limit or (o.state < 'completed' and o.deadline_at < now())) as late
    from orders o where o.run_id = r.run_id
) n
where r.ended_at is null and r.started_at > now() - interval '1 day'
order by r.started_at desc limit 5;
