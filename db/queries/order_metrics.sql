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
-- aborted order includes delays between attempts of a compensation.
select active.orders as active, active.idle_seconds, recent.finished, recent.waiting_ms,
    array(select order_id from orders where order_id = any(%(order_ids)s::text[])) as stored
from (
    select count(*) as orders, extract(epoch from percentile_disc(0.5) within group (order by now() - last_event_at))::float8
            as idle_seconds
    from orders
    where state < 'completed' and case when abort_reason is null then state <> 'in_review'
        else not exists (
            select from step_attempts s where s.order_id = orders.order_id
                and s.step in ('recall', 'refund') and s.attempt > %(quick_attempts)s
        ) end
) active, (
    select count(*) filter (where within_limit) as finished,
        percentile_disc(0.5) within group (order by waiting_ms) filter (where state = 'completed') as waiting_ms
    from orders
    where finished_at is not null and finished_at >= now() - make_interval(secs => %(seconds)s)
) recent;
