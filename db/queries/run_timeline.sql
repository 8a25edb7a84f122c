-- The course of one load test over time.

-- name: run
select run_id, started_at, ended_at, statistics, (options ->> 'slo_seconds')::float8 as limit_seconds
from runs where run_id = %(run_id)s;

-- name: seconds
-- The same counts as in `runs.statistics`, from the orders: for a run that has no statistics yet or was aborted. An order
-- that was never accepted is not in the database.
select second, sum(offered)::int as offered, sum(accepted)::int as accepted, sum(finished)::int as finished,
    sum(late)::int as late, (sum(sum(offered - finished)) over (order by second))::int as in_flight
from orders o
cross join lateral (values
    (o.requested_at, 1, 0, 0, (not coalesce(o.within_limit, o.limit_at >= now()))::int),
    (o.accepted_at, 0, 1, 0, 0),
    (o.finished_at, 0, 0, 1, 0)
) moments (at, offered, accepted, finished, late)
cross join lateral (
    select greatest(floor(extract(epoch from moments.at - %(started_at)s::timestamptz)), 0)::int as second
) seconds
where o.run_id = %(run_id)s and moments.at is not null
group by second order by second;

-- name: completion_times
-- Percentiles of the orders accepted in each time slice since the start of the run.
select date_bin(make_interval(secs => %(slice_seconds)s), accepted_at, %(started_at)s) as at, count(*) as orders,
    percentile_disc(array[0.5, 0.99, 1.0]) within group (order by completion_ms) as times_ms
from orders where run_id = %(run_id)s and finished_at is not null
group by 1 order by 1;

-- name: orders_of_second
-- The orders of a run that were accepted in a second, or open in it; the newest first.
select order_id, state, abort_reason as reason, accepted_at, completion_ms, within_limit, attempts, failed_attempts,
    accepted_at >= %(since)s::timestamptz as is_new
from orders
where run_id = %(run_id)s and accepted_at < %(until)s
    and (accepted_at >= %(since)s or finished_at is null or finished_at >= %(since)s)
order by accepted_at desc, order_id desc limit %(limit)s;
