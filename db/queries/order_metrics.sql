-- Counts of all orders, for metrics and admission control.

-- name: counters
-- Reads the daily rows of the rollup, so a scrape costs the same for any number of orders.
select outcome, upto_ms, sum(orders)::bigint as orders, sum(late)::bigint as late,
    sum(completion_ms)::bigint as completion_ms,
    sum(attempts)::bigint as attempts, sum(failed_attempts)::bigint as failed_attempts,
    sum(timed_out_attempts)::bigint as timed_out_attempts
from latency_rollup where grain_seconds = 86400 group by outcome, upto_ms;

-- name: open_orders
select count(*) as orders,
    count(*) filter (where limit_at < now()) as overdue,
    count(*) filter (where abort_reason is not null) as compensating,
    count(*) filter (where abort_reason is not null and deadline_at < now()) as compensating_overdue,
    count(*) filter (where abort_reason is not null and exists (
        select from step_attempts s where s.order_id = orders.order_id
            and s.step in ('recall', 'refund') and s.attempt > %(quick_attempts)s
    )) as compensation_delayed,
    count(*) filter (where abort_reason is null and state = 'in_review') as in_review,
    extract(epoch from min(deadline_at) - now())::float8 as least_seconds_left,
    exists (select from reconcilers where stopped_at is not null) as is_reconciler_stopped
from orders where state < 'completed';

-- name: load_sample
-- `active` counts the orders in flight that neither await a review nor wait between two attempts of a compensation.
-- `stored` are those of the given orders that are in the database. `finished` counts the orders that finished within
-- the limit in the last seconds. `waiting_ms` is the queueing time of the completed ones: the queueing time of an
-- aborted order includes delays between attempts of a compensation, and that of an order in visible execution includes
-- the delays of Temporal's retries, so both are left out. `waiting_ms` and `idle_seconds` are those of
-- orders accepted in the last `evidence_seconds`. `quiet_seconds` is the time since the last event of an open order or
-- the last outcome.
select active.orders as active, active.idle_seconds, recent.finished, recent.waiting_ms,
    extract(epoch from now() - greatest(active.last_event_at, recent.finished_at))::float8 as quiet_seconds,
    array(select order_id from orders where order_id = any(%(order_ids)s::text[])) as stored
from (
    select count(*) filter (where is_active) as orders,
        extract(epoch from percentile_disc(0.5) within group (order by now() - last_event_at)
            filter (where is_active and accepted_at >= now() - make_interval(secs => %(evidence_seconds)s)))::float8
            as idle_seconds,
        max(last_event_at) as last_event_at
    from orders, lateral (
        select case when abort_reason is null then state <> 'in_review'
            else not exists (
                select from step_attempts s where s.order_id = orders.order_id
                    and s.step in ('recall', 'refund') and s.attempt > %(quick_attempts)s
            ) end as is_active
    ) activity
    where state < 'completed'
) active, (
    select count(*) filter (where within_limit) as finished, max(finished_at) as finished_at,
        percentile_disc(0.5) within group (order by waiting_ms) filter (
            where state = 'completed' and execution = 'fast' and accepted_at >= now() - make_interval(secs => %(evidence_seconds)s)
        ) as waiting_ms
    from orders
    where finished_at is not null and finished_at >= now() - make_interval(secs => %(seconds)s)
) recent;
