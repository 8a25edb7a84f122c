-- The orders of a load test for its playback.

-- name: orders
-- In order of acceptance: all orders, or max_orders of them, evenly chosen. Times are in ms: accepted_ms since
-- run_started_at, others since acceptance. `ended_ms` has the end of each forward step that was completed.
with numbered as (
    select order_id, state, accepted_at, finished_at, aborted_at, completion_ms,
        coalesce(not within_limit, limit_at < now()) as is_late,
        row_number() over (order by accepted_at, order_id) as number, count(*) over () as orders
    from orders where run_id = %(run_id)s
)
select n.order_id, n.state, n.completion_ms, n.is_late, n.orders,
    (extract(epoch from n.accepted_at - %(run_started_at)s::timestamptz) * 1000)::bigint as accepted_ms,
    (extract(epoch from n.aborted_at - n.accepted_at) * 1000)::bigint as aborted_ms,
    (extract(epoch from s.receive - n.accepted_at) * 1000)::bigint as receive_ms,
    (extract(epoch from s.validate - n.accepted_at) * 1000)::bigint as validate_ms,
    (extract(epoch from s.review - n.accepted_at) * 1000)::bigint as review_ms,
    (extract(epoch from s.charge - n.accepted_at) * 1000)::bigint as charge_ms,
    (extract(epoch from s.prepare - n.accepted_at) * 1000)::bigint as prepare_ms
from numbered n cross join lateral (
    -- The end of each step. The lateral query reads one range of the primary key per order.
    select min(at) filter (where step = 'receive' and outcome = 'ok') as receive,
        min(at) filter (where step = 'validate' and outcome = 'ok') as validate,
        min(at) filter (where step = 'review' and state = 'approved') as review,
        min(at) filter (where step = 'charge' and outcome = 'ok') as charge,
        min(at) filter (where step = 'prepare' and outcome = 'ok') as prepare
    from events where order_id = n.order_id
) s
where n.number * %(max_orders)s / n.orders > (n.number - 1) * %(max_orders)s / n.orders
order by n.number;
