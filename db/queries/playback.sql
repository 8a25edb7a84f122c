-- The orders of a load test for its playback.

-- name: orders
-- In order of acceptance: all orders, or with more than max_orders of them every n-th. `steps` are the completed steps in
-- order of time, `ended_ms` their ends. Times are in ms: accepted_ms since run_started_at, others since acceptance.
with numbered as (
    select order_id, state, accepted_at, finished_at, aborted_at, completion_ms,
        coalesce(not within_limit, limit_at < now()) as is_late,
        row_number() over (order by accepted_at, order_id) - 1 as number, count(*) over () as orders
    from orders where run_id = %(run_id)s
)
select n.order_id, n.state, n.completion_ms, n.is_late, n.orders,
    (extract(epoch from n.accepted_at - %(run_started_at)s::timestamptz) * 1000)::bigint as accepted_ms,
    (extract(epoch from n.aborted_at - n.accepted_at) * 1000)::bigint as aborted_ms,
    coalesce(completed.steps, '{}') as steps, coalesce(completed.ended_ms, '{}') as ended_ms
from numbered n left join lateral (
    select array_agg(e.step order by e.at) as steps,
        array_agg((extract(epoch from e.at - n.accepted_at) * 1000)::bigint order by e.at) as ended_ms
    from events e
    where e.order_id = n.order_id
        and (e.outcome = 'ok' or (e.step = 'review' and e.state = 'approved' and e.kind <> 'attempt'))
) completed on true
where n.number %% ceil(n.orders::numeric / %(max_orders)s)::bigint = 0
order by n.number;
