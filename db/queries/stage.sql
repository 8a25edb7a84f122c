-- The page Stage, which reads both statements every second.

-- name: counters
-- The orders accepted since a time. `decided`: those with an outcome or past their limit. `lost`: those without an outcome
-- when twice their limit has passed. `charged_twice`: orders with several charges at the provider since that time.
select count(*) as orders,
    count(*) filter (where within_limit is not null or limit_at < now()) as decided,
    count(*) filter (where coalesce(not within_limit, limit_at < now())) as late,
    count(*) filter (where state < 'completed' and limit_at + (limit_at - accepted_at) < now()) as lost,
    (
        select count(*) from (
            select from provider.ledger where kind = 'charge' and at >= %(since)s group by order_id having count(*) > 1
        ) charged
    ) as charged_twice
from orders where accepted_at >= %(since)s;

-- name: recent_orders
-- Orders in flight and orders that finished in the last seconds, in order of acceptance, in the form of playback.sql.
with recent as (
    (
        select order_id, state, accepted_at, aborted_at, completion_ms, within_limit, limit_at, step_ends_ms
        from orders where state < 'completed' order by deadline_at desc limit %(max_orders)s
    )
    union all
    (
        select order_id, state, accepted_at, aborted_at, completion_ms, within_limit, limit_at, step_ends_ms
        from orders where finished_at is not null and finished_at >= now() - make_interval(secs => %(seconds)s)
        order by finished_at desc limit %(max_orders)s
    )
)
select r.order_id, r.state, r.completion_ms, coalesce(not r.within_limit, r.limit_at < now()) as is_late,
    (extract(epoch from now() - %(run_started_at)s::timestamptz) * 1000)::bigint as now_ms,
    (extract(epoch from r.accepted_at - %(run_started_at)s::timestamptz) * 1000)::bigint as accepted_ms,
    (extract(epoch from r.aborted_at - r.accepted_at) * 1000)::bigint as aborted_ms,
    coalesce(r.step_ends_ms, (
        select array[receive_ms, validate_ms, review_ms, charge_ms, prepare_ms] from step_ends_ms(r.order_id, r.accepted_at)
    )) as step_ends_ms
from recent r
order by r.accepted_at, r.order_id;
