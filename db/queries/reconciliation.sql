-- The reconciler: orders whose workflow may be lost, the lease of its leader, and its stop.

-- name: database_id
select database_id from database_identity;

-- name: register
insert into reconcilers (temporal_cluster_id, temporal_namespace) values (%(cluster_id)s, %(namespace)s)
on conflict do nothing;

-- name: take_lease
-- Makes a worker the leader, or renews its lease. Returns no row while another worker is the leader. `confirmed_before`
-- is set for a while after a person has confirmed that the reconciler may continue.
update reconcilers set leader = %(leader)s, leader_until = clock_timestamp() + %(lease)s
where temporal_cluster_id = %(cluster_id)s and temporal_namespace = %(namespace)s
    and (leader is null or leader = %(leader)s or leader_until < clock_timestamp())
returning stopped_at, orphans, orphan_examples,
    case when confirmed_at > clock_timestamp() - %(confirmed_for)s then confirmed_at end as confirmed_before;

-- name: stale_orders
-- Open orders of one Temporal namespace without recent events, by deadline, after the order in after_*.
select order_id, run_id, deadline_at, last_event_at from orders
where state < 'completed' and last_event_at < clock_timestamp() - %(quiet)s
    and temporal_cluster_id = %(cluster_id)s and temporal_namespace = %(namespace)s
    and (%(after_order_id)s::text is null
        or (deadline_at, order_id) > (%(after_deadline_at)s::timestamptz, %(after_order_id)s::text))
order by deadline_at, order_id
limit %(limit)s;

-- name: confirm_orphan
-- Whether the order is unchanged since `last_event_at` (null: it was never inserted). Returns no row if the worker is not
-- the leader any more, or the reconciler is stopped.
select case when %(last_event_at)s::timestamptz is null
        then not exists (select from orders where order_id = %(order_id)s)
        else exists (
            select from orders where order_id = %(order_id)s and state < 'completed'
                and last_event_at = %(last_event_at)s::timestamptz
                and temporal_cluster_id = %(cluster_id)s and temporal_namespace = %(namespace)s
        ) end as is_unchanged
from reconcilers
where temporal_cluster_id = %(cluster_id)s and temporal_namespace = %(namespace)s
    and leader = %(leader)s and leader_until > clock_timestamp() and stopped_at is null;

-- name: stop
update reconcilers set stopped_at = clock_timestamp(), orphans = %(orphans)s, orphan_examples = %(examples)s
where temporal_cluster_id = %(cluster_id)s and temporal_namespace = %(namespace)s
    and leader = %(leader)s and stopped_at is null;

-- name: reconcilers
-- Every Temporal namespace that has used this database or has open orders in it.
select temporal_cluster_id as cluster_id, temporal_namespace as namespace,
    r.leader, r.leader_until, coalesce(r.leader_until > clock_timestamp(), false) as has_leader,
    r.stopped_at, r.orphans, r.orphan_examples, coalesce(o.open_orders, 0) as open_orders
from reconcilers r
full join (
    select temporal_cluster_id, temporal_namespace, count(*) as open_orders
    from orders where state < 'completed' group by temporal_cluster_id, temporal_namespace
) o using (temporal_cluster_id, temporal_namespace)
order by temporal_cluster_id, temporal_namespace;

-- name: resume
update reconcilers set stopped_at = null, orphans = null, orphan_examples = null, confirmed_at = clock_timestamp()
where stopped_at is not null
returning temporal_cluster_id as cluster_id, temporal_namespace as namespace;

-- name: adopt
-- Moves the open orders of a Temporal namespace without a leader to another one, whose reconciler may then close them.
with moved as (
    update orders o set temporal_cluster_id = %(cluster_id)s, temporal_namespace = %(namespace)s
    where o.state < 'completed'
        and o.temporal_cluster_id = %(from_cluster_id)s and o.temporal_namespace = %(from_namespace)s
        and not exists (
            select from reconcilers r
            where r.temporal_cluster_id = %(from_cluster_id)s and r.temporal_namespace = %(from_namespace)s
                and r.leader_until > clock_timestamp()
        )
    returning o.order_id
), confirmed as (
    insert into reconcilers (temporal_cluster_id, temporal_namespace, confirmed_at)
    select %(cluster_id)s, %(namespace)s, clock_timestamp() where exists (select from moved)
    on conflict (temporal_cluster_id, temporal_namespace) do update set confirmed_at = excluded.confirmed_at
)
select count(*)::int as orders from moved;
