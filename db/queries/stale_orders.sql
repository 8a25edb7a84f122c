-- name: stale_orders
-- Open orders without recent events, by deadline, after the order in after_*.
select order_id, run_id, deadline_at from orders
where state < 'completed' and last_event_at < clock_timestamp() - %(quiet_seconds)s * interval '1 second'
    and (%(after_order_id)s::text is null
        or (deadline_at, order_id) > (%(after_deadline_at)s::timestamptz, %(after_order_id)s::text))
order by deadline_at, order_id
limit %(limit)s;
