-- The current state, for pages that refresh every two seconds. Each statement reads a small range of an index.

-- name: in_flight
select count(*) as orders,
    count(*) filter (where limit_at < now()) as overdue,
    count(*) filter (where state = 'in_review' and review = 'manual' and abort_reason is null) as in_review,
    count(*) filter (where abort_reason is not null) as compensating
from orders where state < 'completed';

-- name: open_by_state
-- Orders in flight in each state, without the aborted ones.
select state, count(*) as orders from orders where state < 'completed' and abort_reason is null group by state;

-- name: orders_by_deadline
-- Orders in flight, by deadline, with the last attempt of their current step.
select o.order_id, o.run_id, o.state, o.current_step, o.abort_reason, o.review, o.accepted_at, o.deadline_at,
    floor(extract(epoch from now() - o.accepted_at) * 1000)::bigint as elapsed_ms,
    round(extract(epoch from o.limit_at - o.accepted_at) * 1000)::bigint as limit_ms,
    (select max(s.attempt) from step_attempts s where s.order_id = o.order_id and s.step = o.current_step) as attempt
from orders o
where o.state < 'completed'
order by o.deadline_at
limit %(limit)s;

-- name: orders_awaiting_review
select o.order_id, o.run_id, o.state, o.amount_cents, o.currency, o.items, o.address, o.accepted_at, o.review_until,
    now() as read_at
from orders o
where o.state in ('received', 'validated', 'in_review') and o.review = 'manual' and o.abort_reason is null
    -- An order can be approved before its review starts; it needs no other approval.
    and not exists (
        select from events e
        where e.order_id = o.order_id and e.kind = 'signal'
            and e.detail ->> 'signal' = 'approve_order' and (e.detail ->> 'accepted')::boolean
    )
order by o.deadline_at
limit %(limit)s;

-- name: throughput
-- Orders started and finished, and starts rejected, in each of the last whole seconds, oldest first.
with seconds as (
    select generate_series(date_trunc('second', now()) - make_interval(secs => %(seconds)s),
        date_trunc('second', now()) - interval '1 second', interval '1 second') as at
), started as (
    select date_trunc('second', accepted_at) as at, count(*) as n from orders
    where accepted_at >= date_trunc('second', now()) - make_interval(secs => %(seconds)s) group by 1
), finished as (
    select date_trunc('second', finished_at) as at, count(*) as n from orders
    where finished_at is not null and finished_at >= date_trunc('second', now()) - make_interval(secs => %(seconds)s)
    group by 1
)
select seconds.at, coalesce(started.n, 0) as started, coalesce(finished.n, 0) as finished,
    coalesce(rejected_starts.starts, 0) as rejected
from seconds left join started using (at) left join finished using (at) left join rejected_starts using (at)
order by 1;

-- name: recent_outcomes
-- Orders that finished in the last seconds. percentile_disc returns the time of an existing order.
select count(*) as finished,
    count(*) filter (where not within_limit) as late,
    count(*) filter (where state = 'completed') as completed,
    count(*) filter (where state = 'cancelled') as cancelled,
    count(*) filter (where state = 'failed') as failed,
    percentile_disc(array[0.5, 0.95, 0.99, 1.0]) within group (order by completion_ms) as percentiles
from orders
where finished_at is not null and finished_at >= now() - make_interval(secs => %(seconds)s);

-- name: outcomes_over_time
-- The same in slices of the time window, numbered from the oldest; slices without orders are left out.
select floor(extract(epoch from finished_at - (now() - make_interval(secs => %(seconds)s))) / %(slice_seconds)s)::int as slice,
    count(*) as finished, count(*) filter (where not within_limit) as late,
    percentile_disc(array[0.5, 0.99]) within group (order by completion_ms) as percentiles
from orders
where finished_at is not null and finished_at >= now() - make_interval(secs => %(seconds)s)
group by slice order by slice;

-- name: last_finished_at
select max(finished_at) as at from orders where finished_at is not null;
