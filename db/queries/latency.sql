-- Completion times for the charts. `exact_*` read the orders of one run, or a limited number of other orders; `rollup_*`
-- read the rollup, for any number of orders.
--
-- Orders are selected by run, acceptance time (since <= time < until), outcome and fault profile; null selects all.

-- name: all_orders_span
select (select min(at) from latency_rollup where grain_seconds = 60) as first_minute,
    (select max(accepted_at) from orders where finished_at is not null) as last_order;

-- name: run_span
select min(accepted_at) as since, max(accepted_at) as until from orders
where run_id = %(run_id)s and finished_at is not null;

-- name: overdue
-- Open orders that are past their limit. They have no outcome, and get their fault profile with it.
select count(*) as orders from orders o
where state < 'completed' and limit_at < now() and %(outcome)s::order_state is null
    and (%(run_id)s::text is null or run_id = %(run_id)s)
    and (%(since)s::timestamptz is null or accepted_at >= %(since)s)
    and (%(until)s::timestamptz is null or accepted_at < %(until)s)
    and (%(fault_profile)s::text is null or %(fault_profile)s = coalesce(
        (select profile from fault_changes f where f.at <= o.accepted_at order by f.at desc limit 1), 'none'));

-- name: run_slo
-- The limit and the target of a load test; null where its options have none.
select (options ->> 'slo_seconds')::float8 as limit_seconds, (options ->> 'slo_target')::float8 as target
from runs where run_id = %(run_id)s;

-- name: exact_summary
-- The number of orders per completion time. Grouping first is cheaper than sorting each order's time.
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
    coalesce(array_agg(orders order by completion_ms), '{}') as order_counts
from times;

-- name: exact_buckets
select latency_bucket(completion_ms) as upto_ms, state as outcome, count(*) as orders
from selected_orders(%(run_id)s, %(since)s, %(until)s, %(outcome)s::order_state, %(fault_profile)s)
where finished_at is not null
group by 1, 2 order by 1, 2;

-- name: exact_times
-- Percentiles of each time slice. percentile_disc returns the time of an existing order.
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
select upto_ms, outcome, sum(orders)::bigint as orders, sum(late)::bigint as late, max(longest_ms) as longest_ms
from selected_rollup(%(grains)s, %(starts)s, %(ends)s, %(outcome)s::order_state, %(fault_profile)s)
group by 1, 2 order by 1, 2;

-- name: rollup_cells
select date_bin(make_interval(secs => %(slice_seconds)s), at, '2000-01-01 00:00:00+00') as at,
    upto_ms, sum(orders)::bigint as orders, sum(late)::bigint as late, max(longest_ms) as longest_ms
from selected_rollup(%(grains)s, %(starts)s, %(ends)s, %(outcome)s::order_state, %(fault_profile)s)
group by 1, 2 order by 1, 2;

-- name: slowest
select order_id, run_id, state as outcome, abort_reason as reason, accepted_at, completion_ms, within_limit,
    receive_ms, validate_ms, review_ms, charge_ms, prepare_ms, dispatch_ms, compensate_ms, waiting_ms,
    attempts, failed_attempts, timed_out_attempts
from selected_orders(%(run_id)s, %(since)s, %(until)s, %(outcome)s::order_state, %(fault_profile)s)
where finished_at is not null
    -- An edge of the histogram above which there are at least `limit` orders. Faster orders are not read.
    and completion_ms > %(above_ms)s
order by completion_ms desc, order_id
limit %(limit)s;

-- name: fault_spans
-- The newest fault profiles, each with the period in which it was active.
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
-- The newest disturbances between two times that were carried out, newest first. `chaos` of a finished load test has
-- its disturbances, in seconds since its start, also those that failed. `disturbances` has all others; each was carried
-- out.
select r.run_id, r.started_at + make_interval(secs => (c.disturbance ->> 'at_seconds')::float8) as at,
    coalesce(c.disturbance ->> 'verb', '') as verb, coalesce(c.disturbance ->> 'target', '') as target
from runs r cross join lateral jsonb_array_elements(r.chaos) c (disturbance)
where r.started_at < %(until)s::timestamptz and coalesce(r.ended_at, now()) >= %(since)s::timestamptz
    and c.disturbance ? 'at_seconds' and c.disturbance ->> 'problem' is null
union all
select d.run_id, d.at, d.action, d.component
from disturbances d
where d.at >= %(since)s::timestamptz and d.at < %(until)s::timestamptz
    and not (d.is_planned and exists (select from runs r where r.run_id = d.run_id and r.ended_at is not null))
order by 2 desc limit %(limit)s;
