-- The orders of a load test for its playback.

-- name: orders
-- In order of acceptance: all orders, or max_orders of them, evenly chosen. Times are in ms: accepted_ms since
-- run_started_at, others since acceptance.
with numbered as (
    select order_id, state, accepted_at, aborted_at, completion_ms, step_ends_ms,
        coalesce(not within_limit, limit_at < now()) as is_late,
        row_number() over (order by accepted_at, order_id) as number, count(*) over () as orders
    from orders where run_id = %(run_id)s
)
select n.order_id, n.state, n.completion_ms, n.is_late, n.orders,
    (extract(epoch from n.accepted_at - %(run_started_at)s::timestamptz) * 1000)::bigint as accepted_ms,
    (extract(epoch from n.aborted_at - n.accepted_at) * 1000)::bigint as aborted_ms,
    coalesce(n.step_ends_ms, (
        select array[receive_ms, validate_ms, review_ms, charge_ms, prepare_ms] from step_ends_ms(n.order_id, n.accepted_at)
    )) as step_ends_ms
from numbered n
where n.number * %(max_orders)s / n.orders > (n.number - 1) * %(max_orders)s / n.orders
order by n.number;
