-- Retention deletes the events of orders accepted before a cutoff, and no other rows.

-- name: cutoff
-- At most the acceptance time of the oldest open order, because the events of open orders are still needed.
select least(now() - %(keep)s::interval, min(accepted_at)) as cutoff, min(accepted_at) as oldest_open_at
from orders where state < 'completed';

-- name: count_expired
select count(*) as orders from orders
where accepted_at >= (select events_since()) and accepted_at < %(cutoff)s;

-- name: delete_batch
-- Deletes the events of the next orders and advances `events_since` in the same transaction, so that the audit can
-- distinguish deleted events from missing ones. Returns no row when all expired events are deleted. Writers of orders
-- do not wait for it: it locks only event_retention and the deleted events.
with retention as (
    select events_since as since from event_retention for update
), batch as (
    select since, coalesce((
        select accepted_at from orders where accepted_at > since and accepted_at < %(cutoff)s
        order by accepted_at offset %(orders)s limit 1
    ), %(cutoff)s) as until
    from retention where since < %(cutoff)s
), deleted as (
    delete from events e using batch b, orders o
    where o.accepted_at >= b.since and o.accepted_at < b.until and e.order_id = o.order_id
    returning e.order_id
)
update event_retention set events_since = batch.until from batch
returning (select count(distinct order_id) from deleted) as orders, (select count(*) from deleted) as events;
