-- Single orders and lists of orders, for the API.

-- name: start_conflicts
-- The stored fingerprint and request ids of an order id, and the order that owns a payment id.
select o.fingerprint, coalesce(o.applied_request_ids, '{}') as applied_request_ids, p.order_id as payment_owner
from (select 1) one
left join orders o on o.order_id = %(order_id)s
left join payments p on p.payment_id = %(payment_id)s;

-- name: order
-- One order with the number of failed attempts of each step, and the last ten failed attempts. The number includes
-- attempts without an event; the last ten do not.
with target as (
    select * from orders where order_id = %(order_id)s
), event as materialized (
    select e.at, e.kind, e.state, e.step, e.attempt, e.outcome, e.detail
    from target o join events e on e.order_id = o.order_id
), failure as (
    select step, attempt, outcome, coalesce(detail ->> 'error', '') as error, at
    from event where kind = 'attempt' and outcome <> 'ok'
)
select o.order_id, o.run_id, o.state, o.current_step, o.abort_reason as reason, o.amount_cents, o.currency,
    o.accepted_at, o.last_event_at, o.deadline_at, o.completion_ms, o.within_limit, o.address, o.address_version,
    (select tracking from shipments s where s.order_id = o.order_id) as tracking,
    (select max(state) from event where state < 'completed') as furthest_state,
    array(select distinct step from event where kind = 'attempt' and outcome = 'ok') as successful_steps,
    (select coalesce(jsonb_object_agg(step, n), '{}') from (
        select step, sum(n) as n from (
            select step, count(*) as n from failure group by step
            union all
            select step, omitted_attempts from step_attempts s where s.order_id = o.order_id and omitted_attempts > 0
            union all
            select key, value::bigint from event, jsonb_each_text(detail -> 'omitted_attempts') where kind = 'outcome'
        ) counts group by step
    ) by_step) as retries,
    (select coalesce(jsonb_agg(to_jsonb(last_ten) order by at), '[]')
        from (select * from failure order by at desc limit 10) last_ten) as failures,
    (select detail ->> 'message' from event
        where o.abort_reason is not null
            and (kind = 'abort' or (kind = 'signal' and detail @> '{"accepted": true}' and detail ? 'reason'))
        order by at limit 1) as message
from target o;

-- name: accepted_request
-- The last accepted request of a signal with this detail, and whether it is the last accepted one of the signal.
-- `state` is null if there is no such request.
select o.applied_request_ids, o.state as order_state, accepted.state,
    accepted.at is not null and not exists (
        select from events e
        where e.order_id = o.order_id and e.kind = 'signal' and e.at > accepted.at and e.detail @> %(signal)s::jsonb
    ) as is_last
from orders o
left join lateral (
    select e.at, e.state from events e
    where e.order_id = o.order_id and e.kind = 'signal' and e.detail @> (%(signal)s::jsonb || %(detail)s::jsonb)
    order by e.at desc limit 1
) accepted on true
where o.order_id = %(order_id)s;

-- name: order_history
-- Returns no row for an unknown order, and one row of nulls for an order whose events were deleted by retention.
select e.at, e.kind, e.state, e.step, e.attempt, e.outcome, e.started_at, e.duration_ms, e.worker, e.detail
from orders o
left join events e on e.order_id = o.order_id
where o.order_id = %(order_id)s
order by e.at;

-- name: list_orders
-- Newest first, starting after the order in before_*.
select order_id, run_id, state, current_step, abort_reason as reason, amount_cents, currency,
    accepted_at, last_event_at, deadline_at, completion_ms, within_limit
from orders
where (%(state)s::order_state is null or state = %(state)s::order_state)
    and (%(run_id)s::text is null or run_id = %(run_id)s::text)
    and (%(before_at)s::timestamptz is null
        or (accepted_at, order_id) < (%(before_at)s::timestamptz, %(before_id)s::text))
order by accepted_at desc, order_id desc
limit %(limit)s;

-- name: finished_among
select order_id from orders where order_id = any(%(order_ids)s) and state >= 'completed';
