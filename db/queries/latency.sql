-- Completion times for the charts. `exact_*` read the orders themselves, for selections of a size that one
-- can read in a moment, or of one run; `rollup_*` read the folded history of all runs, whatever its size.
--
-- A selection is a run, a span of acceptance (since included, until not), an outcome and a fault profile,
-- each null for any.

-- name: known_span
select (select min(at) from latency_rollup where grain_seconds = 60) as first_minute,
    (select max(accepted_at) from orders where finished_at is not null) as last_order;

-- name: run_span
select min(accepted_at) as since, max(accepted_at) as until from orders
where run_id = %(run_id)s and finished_at is not null;

-- name: exact_summary
-- How many took exactly how long, the quickest first: sorting a hundred thousand times would take longer than
-- the rest.
with times as (
    select completion_ms, count(*) as orders,
        count(*) filter (where not within_limit) as late,
        count(*) filter (where state = 'completed') as completed,
        count(*) filter (where state = 'cancelled') as cancelled,
        count(*) filter (where state = 'failed') as failed
    from selected_orders(%(run_id)s, %(since)s, %(until)s, %(outcome)s::order_state, %(fault_profile)s)
    where finished_at is not null
    group by completion_ms
)
select coalesce(sum(late), 0)::bigint as late,
    coalesce(sum(completed), 0)::bigint as completed,
    coalesce(sum(cancelled), 0)::bigint as cancelled,
    coalesce(sum(failed), 0)::bigint as failed,
    coalesce(array_agg(completion_ms order by completion_ms), '{}') as times_ms,
    coalesce(array_agg(orders order by completion_ms), '{}') as orders_of
from times;

-- name: exact_buckets
select latency_bucket(completion_ms) as upto_ms, state as outcome, count(*) as orders
from selected_orders(%(run_id)s, %(since)s, %(until)s, %(outcome)s::order_state, %(fault_profile)s)
where finished_at is not null
group by 1, 2 order by 1, 2;

-- name: exact_times
-- Percentiles of each slice of time; percentile_disc, so each is the time of an order that there was.
select date_bin(make_interval(secs => %(slice_seconds)s), accepted_at, '2000-01-01 00:00:00+00') as at,
    count(*) as orders, count(*) filter (where not within_limit) as late,
    percentile_disc(array[0.5, 0.95, 0.99, 1.0]) within group (order by completion_ms) as times_ms
from selected_orders(%(run_id)s, %(since)s, %(until)s, %(outcome)s::order_state, %(fault_profile)s)
where finished_at is not null
group by 1 order by 1;

-- name: exact_cells
select date_bin(make_interval(secs => %(slice_seconds)s), accepted_at, '2000-01-01 00:00:00+00') as at,
    latency_bucket(completion_ms) as upto_ms, count(*) as orders
from selected_orders(%(run_id)s, %(since)s, %(until)s, %(outcome)s::order_state, %(fault_profile)s)
where finished_at is not null
group by 1, 2 order by 1, 2;

-- name: rollup_buckets
-- The spans are whole days, hours and minutes that together are the selected time, each in its own grain.
-- `offset 0` has each span read through the index: joined freely, the whole table would be read once.
select r.upto_ms, r.outcome, sum(r.orders)::bigint as orders, sum(r.late)::bigint as late,
    max(r.longest_ms) as longest_ms
from unnest(%(grains)s::int[], %(starts)s::timestamptz[], %(ends)s::timestamptz[]) span (grain, since, until)
cross join lateral (
    select * from latency_rollup where grain_seconds = span.grain and at >= span.since and at < span.until offset 0
) r
where (%(outcome)s::order_state is null or r.outcome = %(outcome)s::order_state)
    and (%(fault_profile)s::text is null or r.fault_profile = %(fault_profile)s::text)
group by 1, 2 order by 1, 2;

-- name: rollup_cells
select date_bin(make_interval(secs => %(slice_seconds)s), r.at, '2000-01-01 00:00:00+00') as at,
    r.upto_ms, sum(r.orders)::bigint as orders, sum(r.late)::bigint as late, max(r.longest_ms) as longest_ms
from unnest(%(grains)s::int[], %(starts)s::timestamptz[], %(ends)s::timestamptz[]) span (grain, since, until)
cross join lateral (
    select * from latency_rollup where grain_seconds = span.grain and at >= span.since and at < span.until offset 0
) r
where (%(outcome)s::order_state is null or r.outcome = %(outcome)s::order_state)
    and (%(fault_profile)s::text is null or r.fault_profile = %(fault_profile)s::text)
group by 1, 2 order by 1, 2;

-- name: size_of
-- How many orders a selection holds at most, from the coarse grains alone: enough to choose how to read it.
select coalesce(sum(r.orders), 0)::bigint as orders
from unnest(%(grains)s::int[], %(starts)s::timestamptz[], %(ends)s::timestamptz[]) span (grain, since, until)
cross join lateral (
    select * from latency_rollup where grain_seconds = span.grain and at >= span.since and at < span.until offset 0
) r
where (%(outcome)s::order_state is null or r.outcome = %(outcome)s::order_state)
    and (%(fault_profile)s::text is null or r.fault_profile = %(fault_profile)s::text);

-- name: slowest
select order_id, run_id, state as outcome, abort_reason as reason, accepted_at, completion_ms, within_limit,
    receive_ms, validate_ms, review_ms, charge_ms, prepare_ms, dispatch_ms, compensate_ms, waiting_ms,
    attempts, failed_attempts, timed_out_attempts
from selected_orders(%(run_id)s, %(since)s, %(until)s, %(outcome)s::order_state, %(fault_profile)s)
where finished_at is not null
    -- At least this many are as slow as that, the buckets say: so only they are read.
    and completion_ms > %(above_ms)s
order by completion_ms desc, order_id
limit %(limit)s;

-- name: fault_spans
-- Which profile was in force when, oldest first; the last one goes on.
select profile, seed, at as since, until
from (select profile, seed, at, lead(at) over (order by at, change_id) as until from fault_changes) spans
where (%(until)s::timestamptz is null or at < %(until)s::timestamptz)
    and (%(since)s::timestamptz is null or until is null or until > %(since)s::timestamptz)
order by at desc limit %(limit)s;

-- name: active_faults
select profile, seed, at as since, null::timestamptz as until from fault_changes order by change_id desc limit 1;

-- name: fault_profiles
select distinct profile from fault_changes order by 1;

-- name: run_names
select run_id, scenario, started_at from runs order by started_at desc limit %(limit)s;

-- name: disturbances
-- What was done to the stack between two times, oldest first. A judged load test knows all of its own, in
-- seconds of the schedule that its orders have too; before that, and by hand, each is kept by itself.
select r.run_id, r.started_at + make_interval(secs => (c.told ->> 'at_seconds')::float8) as at,
    coalesce(c.told ->> 'verb', '') as verb, coalesce(c.told ->> 'target', '') as target
from runs r cross join lateral jsonb_array_elements(r.chaos) c (told)
where r.started_at < %(until)s::timestamptz and coalesce(r.ended_at, now()) >= %(since)s::timestamptz
    and c.told ? 'at_seconds'
union all
select d.run_id, d.at, d.action, d.component
from disturbances d
where d.at >= %(since)s::timestamptz and d.at < %(until)s::timestamptz
    and not exists (select from runs r where r.run_id = d.run_id and r.ended_at is not null)
order by 2 limit %(limit)s;
