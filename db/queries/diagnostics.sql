-- Statements of start-up checks and of `orders doctor`. Their duration does not depend on the number of finished orders.

-- name: server
select current_setting('server_version_num')::int as version, current_setting('server_version') as version_text,
    clock_timestamp() as clock, to_regclass('schema_migrations') is not null as has_migrations;

-- name: connections
select sessions.connections, sessions.hidden,
    current_setting('max_connections')::int as max_connections,
    to_regclass('event_retention') is not null as has_orders
from (
    -- Without pg_read_all_stats, a user can count the sessions of other users but not see what they do.
    select count(*)::int as connections, count(*) filter (where backend_type is null)::int as hidden
    from pg_stat_activity
    where datid is not null and usesysid is not null and coalesce(backend_type, 'client backend') = 'client backend'
) sessions;

-- name: sessions
-- Sessions of this database with a statement or transaction of more than 2 s, the longest first.
select pid, coalesce(application_name, '') as application,
    extract(epoch from clock_timestamp() - case when state = 'active' then query_start else xact_start end)::float8
        as seconds,
    left(regexp_replace(coalesce(query, ''), '\s+', ' ', 'g'), 80) as statement,
    state <> 'active' as is_idle,
    coalesce(wait_event_type = 'Lock', false) as waits_for_lock
from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
    and state in ('active', 'idle in transaction', 'idle in transaction (aborted)')
    and case when state = 'active' then query_start else xact_start end < clock_timestamp() - interval '2 seconds'
order by seconds desc
limit 5;

-- name: migrations
select version from schema_migrations order by version;

-- name: overdue
-- With a tolerance of 1 s, because an outcome may be written right at the deadline.
select count(*) as orders, (array_agg(order_id order by deadline_at))[1:3] as examples
from orders where state < 'completed' and deadline_at < now() - interval '1 second';

-- name: repeated_compensations
select s.order_id from step_attempts s join orders o using (order_id)
where s.step in ('refund', 'recall') and s.attempt >= %(attempts)s and o.state < 'completed'
order by s.attempt desc
limit 3;

-- name: acceptance_gap
-- Shortest time from acceptance to the first event among the newest 20 orders of the last ten minutes.
select extract(epoch from min(e.at - o.accepted_at))::float8 as seconds
from (
    select order_id, accepted_at from orders
    where accepted_at > now() - interval '10 minutes' order by accepted_at desc limit 20
) o
join events e on e.order_id = o.order_id and e.kind = 'accepted';
