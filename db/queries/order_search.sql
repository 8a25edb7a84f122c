-- Order search, and the details of one order.

-- name: count_matches
-- The number of orders whose id starts with a prefix, counted up to `max_count`, and the acceptance time of the newest of
-- them. `order by` makes the planner use the index.
select count(*) as orders, max(accepted_at) as newest_at
from (select accepted_at from orders where order_id ^@ %(prefix)s::text order by order_id limit %(max_count)s) found;

-- name: search
-- Newest first. Each selective filter has an index that includes the order id, so that orders without the prefix
-- (`^@`) are skipped without reading their rows.
select o.order_id, o.run_id, o.state, o.current_step, o.abort_reason, o.review, o.amount_cents, o.currency,
    o.accepted_at, o.deadline_at, o.finished_at, o.completion_ms, o.attempts, o.failed_attempts,
    coalesce(not o.within_limit, o.limit_at < now()) as is_late
from (
    (
        select order_id from orders
        where (%(prefix)s::text is null or order_id ^@ %(prefix)s::text)
            and (%(run_id)s::text is null or run_id = %(run_id)s::text)
            and (%(state)s::order_state is null or state = %(state)s::order_state)
            and (not %(only_open)s or state < 'completed')
            and (not %(only_late)s or within_limit = false)
            and (%(before_at)s::timestamptz is null
                or (accepted_at, order_id) < (%(before_at)s::timestamptz, %(before_id)s::text))
        order by accepted_at desc, order_id desc
        limit %(limit)s
    )
    union all
    -- Late orders without an outcome are in another index.
    select order_id from orders
    where %(only_late)s and state < 'completed' and limit_at < now()
        and (%(prefix)s::text is null or order_id ^@ %(prefix)s::text)
        and (%(run_id)s::text is null or run_id = %(run_id)s::text)
        and (%(state)s::order_state is null or state = %(state)s::order_state)
        and (%(before_at)s::timestamptz is null
            or (accepted_at, order_id) < (%(before_at)s::timestamptz, %(before_id)s::text))
) found
join orders o using (order_id)
order by o.accepted_at desc, o.order_id desc
limit %(limit)s;

-- name: search_by_prefix
-- The same for a prefix with few matches. It reads all matches and then sorts them (`offset 0` prevents another plan).
select order_id, run_id, state, current_step, abort_reason, review, amount_cents, currency,
    accepted_at, deadline_at, finished_at, completion_ms, attempts, failed_attempts,
    coalesce(not within_limit, limit_at < now()) as is_late
from (select * from orders where order_id ^@ %(prefix)s::text offset 0) found
where (%(run_id)s::text is null or run_id = %(run_id)s::text)
    and (%(state)s::order_state is null or state = %(state)s::order_state)
    and (not %(only_open)s or state < 'completed')
    and (not %(only_late)s or within_limit = false or (state < 'completed' and limit_at < now()))
    and (%(before_at)s::timestamptz is null
        or (accepted_at, order_id) < (%(before_at)s::timestamptz, %(before_id)s::text))
order by accepted_at desc, order_id desc
limit %(limit)s;

-- name: states
-- The states of some orders, in the order of `order_ids`.
select o.order_id, o.state, o.abort_reason
from unnest(%(order_ids)s::text[]) with ordinality wanted (order_id, n) join orders o using (order_id)
order by wanted.n;

-- name: order
select o.*, now() as read_at, to_jsonb(p) as payment, to_jsonb(s) as shipment,
    (select coalesce(jsonb_agg(to_jsonb(l) order by l.entry_id), '[]') from provider.ledger l
        where l.order_id = o.order_id) as ledger,
    (select coalesce(jsonb_agg(to_jsonb(k) order by k.package_key), '[]') from provider.packages k
        where k.order_id = o.order_id) as packages,
    (select coalesce(jsonb_agg(to_jsonb(c) order by c.shipment_key), '[]') from provider.parcels c
        where c.order_id = o.order_id) as parcels
from orders o
left join payments p on p.order_id = o.order_id
left join shipments s on s.order_id = o.order_id
where o.order_id = %(order_id)s;

-- name: median_order
-- The finished order of a run with the median completion time (nearest rank), and its time breakdown.
select order_id, completion_ms, receive_ms, validate_ms, review_ms, charge_ms, prepare_ms, dispatch_ms, compensate_ms,
    waiting_ms
from orders
where run_id = %(run_id)s and finished_at is not null and completion_ms = (
    select percentile_disc(0.5) within group (order by completion_ms) from orders
    where run_id = %(run_id)s and finished_at is not null
)
order by order_id limit 1;

-- name: running_attempts
select step, attempt, started_at, worker from step_attempts
where order_id = %(order_id)s and started_at is not null
order by started_at;
