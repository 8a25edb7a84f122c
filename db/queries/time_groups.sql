-- How the late, the slow and the other orders of a load test spent their time.

-- name: time_groups
-- Total times of each group, in ms. `disturbed_ms` is the part of the waiting time in the windows of each disturbance. An
-- order without events, which retention has deleted, has none.
with finished as (
    select order_id, accepted_at, finished_at, aborted_at, within_limit, completion_ms, receive_ms, validate_ms, review_ms,
        charge_ms, prepare_ms, dispatch_ms, compensate_ms, waiting_ms
    from orders where run_id = %(run_id)s and finished_at is not null
), grouped as (
    select finished.*, case when not within_limit then 'late' when completion_ms > slow.above_ms then 'slow'
        else 'on_time' end as kind
    from finished, (
        select percentile_disc(%(share)s) within group (order by completion_ms) as above_ms
        from finished where within_limit
    ) slow
), windows as (
    select n, tstzrange(since, until) as span
    from unnest(%(numbers)s::int[], %(starts)s::timestamptz[], %(ends)s::timestamptz[]) w (n, since, until)
), disturbed as materialized (
    select kind, n, floor(sum(extract(epoch from upper(part) - lower(part)) * 1000))::bigint as ms
    from (
        select g.kind, w.n,
            unnest((tstzmultirange(tstzrange(g.accepted_at, g.finished_at)) - busy.spans) * w.span::tstzmultirange) as part
        from grouped g
        join windows w on w.span && tstzrange(g.accepted_at, g.finished_at)
        cross join lateral (
            -- Review, and every attempt that counts to its step: see finish_order.
            select coalesce(range_agg(span), '{}') as spans
            from (
                select tstzrange(started_at, least(
                    started_at + interval '1 millisecond' * duration_ms,
                    case when step not in ('recall', 'refund') then g.aborted_at end
                )) as span
                from events
                where order_id = g.order_id and kind = 'attempt' and outcome <> 'lost'
                    and (step in ('recall', 'refund') or started_at < coalesce(g.aborted_at, 'infinity'))
                union all
                select tstzrange(
                    min(at) filter (where kind = 'state' and state = 'in_review'),
                    coalesce(min(at) filter (where state = 'approved'), g.aborted_at)
                )
                from events where order_id = g.order_id
                having min(at) filter (where kind = 'state' and state = 'in_review') is not null
            ) spans
        ) busy
        where g.accepted_at >= (select events_since())
    ) waiting
    group by kind, n
)
select kind, count(*) as orders, sum(completion_ms)::bigint as completion_ms,
    sum(receive_ms)::bigint as receive_ms, sum(validate_ms)::bigint as validate_ms,
    sum(review_ms)::bigint as review_ms, sum(charge_ms)::bigint as charge_ms,
    sum(prepare_ms)::bigint as prepare_ms, sum(dispatch_ms)::bigint as dispatch_ms,
    sum(compensate_ms)::bigint as compensate_ms, sum(waiting_ms)::bigint as waiting_ms,
    (select jsonb_object_agg(n, ms) from disturbed d where d.kind = g.kind) as disturbed_ms
from grouped g group by kind;
