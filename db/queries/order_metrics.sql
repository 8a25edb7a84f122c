-- Counts of all orders, for metrics and admission control.

-- name: counters
-- From the days of the rollup, so that a scrape costs the same for any number of orders.
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
    extract(epoch from min(deadline_at) - now())::float8 as least_seconds_left,
    exists (select from reconcilers where stopped_at is not null) as is_reconciler_stopped
from orders where state < 'completed';

-- name: load_sample
-- Orders in flight, except those that await manual review; which of the given orders are stored; and the queueing
-- time of the orders that finished in the last seconds.
select recent.finished, recent.waiting_ms,
    (select count(*) from orders
        where state < 'completed'
            and not (state = 'in_review' and review = 'manual' and abort_reason is null)) as in_flight,
    array(select order_id from orders where order_id = any(%(order_ids)s::text[])) as stored
from (
    select count(*) as finished, percentile_disc(0.5) within group (order by waiting_ms) as waiting_ms
    from orders
    where finished_at is not null and finished_at >= now() - make_interval(secs => %(seconds)s)
) recent;
