-- Read models: what the API, the CLI and the dashboard show. No statement here writes.

-- name: ping
select 1 as answer;

-- name: start_check
-- What the books hold under an order id, and which order owns a payment id.
select o.fingerprint, p.order_id as payment_owner
from (select 1) one
left join orders o on o.order_id = %(order_id)s
left join payments p on p.payment_id = %(payment_id)s;

-- name: pressure
-- What is under way, without what waits for a person; which of the given orders the books have; and how long
-- the orders that finished in the last seconds spent in nobody's hands.
select f.finished, f.waiting_ms,
    (select count(*) from orders
        where state < 'completed'
            and not (state = 'in_review' and review = 'manual' and abort_reason is null)) as in_flight,
    array(select order_id from orders where order_id = any(%(order_ids)s::text[])) as taken
from (
    select count(*) as finished, percentile_disc(0.5) within group (order by waiting_ms) as waiting_ms
    from orders
    where finished_at is not null and finished_at >= now() - make_interval(secs => %(seconds)s)
) f;

-- name: order_status
-- One order as it stands, with the failed attempts of each step and the last ten of them. The bounds on
-- e.at let PostgreSQL skip the partitions in which the order has no events.
with o as (
    select * from orders where order_id = %(order_id)s
), told as materialized (
    select e.at, e.kind, e.state, e.step, e.attempt, e.outcome, e.detail
    from o join events e on e.order_id = o.order_id and e.at between o.accepted_at and o.last_event_at
), failed as (
    select step, attempt, outcome, coalesce(detail ->> 'error', '') as error, at
    from told where kind = 'attempt' and outcome <> 'ok'
)
select o.order_id, o.run_id, o.state, o.current_step, o.abort_reason, o.amount_cents,
    o.accepted_at, o.last_event_at, o.deadline_at, o.completion_ms, o.within_limit,
    (select tracking from shipments s where s.order_id = o.order_id) as tracking,
    (select max(state) from told where state < 'completed') as furthest_state,
    array(select distinct step from told where kind = 'attempt' and outcome = 'ok') as done_steps,
    (select coalesce(jsonb_object_agg(step, n), '{}')
        from (select step, count(*) as n from failed group by step) each_step) as retries,
    (select coalesce(jsonb_agg(to_jsonb(last_ten) order by at), '[]')
        from (select * from failed order by at desc limit 10) last_ten) as failures,
    (select detail ->> 'message' from told
        where o.abort_reason is not null
            and (kind = 'abort' or (kind = 'signal' and detail @> '{"accepted": true}' and detail ? 'reason'))
        order by at limit 1) as message
from o;

-- name: order_history
-- No row: no such order. One row without a time: its events have been dropped.
select e.at, e.kind, e.state, e.step, e.attempt, e.outcome, e.started_at, e.duration_ms, e.worker, e.detail
from orders o
left join events e on e.order_id = o.order_id and e.at between o.accepted_at and o.last_event_at
where o.order_id = %(order_id)s
order by e.at;

-- name: list_orders
-- Newest first; the page after the order named by before_*.
select order_id, run_id, state, current_step, abort_reason, amount_cents,
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

-- name: latency_summary
-- percentile_disc: every percentile is the time of an order that there was, nothing is interpolated.
with chosen as (
    select * from selected_orders(%(run_id)s, %(since)s, %(until)s)
), finished as (
    select * from chosen where finished_at is not null
), parts as (
    select part, count(*) as n, round(avg(ms), 1) as mean, percentile_disc(%(shares)s::float8[]) within group (order by ms) as at
    from finished, lateral (values
        ('end_to_end', end_to_end_ms), ('completion', completion_ms), ('ingress', ingress_ms),
        ('receive', receive_ms), ('validate', validate_ms), ('review', review_ms), ('charge', charge_ms),
        ('prepare', prepare_ms), ('dispatch', dispatch_ms), ('compensate', compensate_ms), ('waiting', waiting_ms)
    ) split (part, ms)
    group by part
)
select
    count(*) filter (where finished_at is not null) as finished,
    count(*) filter (where finished_at is not null and not within_limit) as late,
    count(*) filter (where finished_at is null) as open,
    count(*) filter (where finished_at is null and deadline_at < now()) as overdue,
    count(*) filter (where state = 'completed') as completed,
    count(*) filter (where state = 'cancelled') as cancelled,
    count(*) filter (where state = 'failed') as failed,
    (select jsonb_object_agg(part, jsonb_build_object('mean', mean, 'at', at)) from parts) as parts
from chosen;

-- name: counters
-- Finished orders from the rollup's days, so that a scrape costs the same however many there are.
select outcome, upto_ms, sum(orders)::bigint as orders, sum(late)::bigint as late,
    sum(completion_ms)::bigint as completion_ms,
    sum(attempts)::bigint as attempts, sum(failed_attempts)::bigint as failed_attempts,
    sum(timed_out_attempts)::bigint as timed_out_attempts
from latency_rollup where grain_seconds = 86400 group by outcome, upto_ms;

-- name: open_orders
-- An order that is turned back has no outcome before everything done for it is undone.
select count(*) as orders,
    count(*) filter (where deadline_at < now()) as overdue,
    count(*) filter (where abort_reason is not null) as compensating,
    count(*) filter (where abort_reason is not null and deadline_at < now()) as compensating_overdue,
    extract(epoch from min(deadline_at) - now())::float8 as least_seconds_left
from orders where state < 'completed';
