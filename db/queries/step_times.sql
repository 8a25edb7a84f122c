-- When the newest finished orders completed each step, from their events.

-- name: newest
-- Times in ms since acceptance; null for a step that the order did not complete, and for an order that was not aborted.
-- Attempts are numbered without gaps, so the largest number is their count, also where a failed one has no event.
select o.order_id, o.review, o.fault_profile, o.state, o.accepted_at, o.finished_at, o.completion_ms,
    round(extract(epoch from o.aborted_at - o.accepted_at) * 1000)::int as aborted_ms, steps.*
from (
    select * from orders where finished_at is not null and (%(run_id)s::text is null or run_id = %(run_id)s)
    order by finished_at desc limit %(limit)s
) o
cross join lateral (
    select
        round(extract(epoch from max(at) filter (where step = 'receive' and is_end) - o.accepted_at) * 1000)::int as receive_end_ms,
        round(extract(epoch from max(at) filter (where step = 'validate' and is_end) - o.accepted_at) * 1000)::int as validate_end_ms,
        round(extract(epoch from max(at) filter (where step = 'review' and is_end) - o.accepted_at) * 1000)::int as review_end_ms,
        round(extract(epoch from max(at) filter (where step = 'charge' and is_end) - o.accepted_at) * 1000)::int as charge_end_ms,
        round(extract(epoch from max(at) filter (where step = 'prepare' and is_end) - o.accepted_at) * 1000)::int as prepare_end_ms,
        round(extract(epoch from max(at) filter (where step = 'dispatch' and is_end) - o.accepted_at) * 1000)::int as dispatch_end_ms,
        coalesce(max(attempt) filter (where step = 'receive'), 0) - count(*) filter (where step = 'receive' and is_end) as receive_failures,
        coalesce(max(attempt) filter (where step = 'validate'), 0) - count(*) filter (where step = 'validate' and is_end) as validate_failures,
        coalesce(max(attempt) filter (where step = 'charge'), 0) - count(*) filter (where step = 'charge' and is_end) as charge_failures,
        coalesce(max(attempt) filter (where step = 'prepare'), 0) - count(*) filter (where step = 'prepare' and is_end) as prepare_failures,
        coalesce(max(attempt) filter (where step = 'dispatch'), 0) - count(*) filter (where step = 'dispatch' and is_end) as dispatch_failures
    from (
        select at, step, attempt, outcome is not distinct from 'ok' or (step = 'review' and state = 'approved') as is_end
        from events where order_id = o.order_id and step is not null
    ) event
) steps;
