-- Events are dropped by whole partitions. The statements that change tables are in db/maintenance/retention.py.

-- name: ensure_partitions
select ensure_event_partitions() as created;

-- name: lock
-- Only one process at a time.
select pg_try_advisory_lock(hashtext('event_retention')) as is_locked;

-- name: expired
-- Partitions whose last day ends before the cutoff, oldest first. Bytes include indexes.
select name, from_at, to_at, pg_total_relation_size(to_regclass(name)) as bytes
from event_partitions() where to_at <= %(cutoff)s order by from_at;

-- name: oldest_open_order
select min(accepted_at) as at from orders where state < 'completed';

-- name: decide
insert into dropped_events (to_at, from_at, partition, bytes)
values (%(to_at)s, %(from_at)s, %(name)s, %(bytes)s)
on conflict (to_at) do nothing;

-- name: unfinished
-- Partitions that an earlier call decided to drop and did not: attached, half detached or detached.
select d.partition as name, d.from_at, d.to_at, d.bytes, i.inhdetachpending as half_detached
from dropped_events d
left join pg_inherits i on i.inhparent = 'events'::regclass and i.inhrelid = to_regclass(d.partition)
where d.dropped_at is null
order by d.from_at;

-- name: done
update dropped_events set dropped_at = now() where to_at = %(to_at)s;
