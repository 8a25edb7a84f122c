-- migrate:up

-- The values are in path order, so that states can be compared with < and >. Same as db/domain.py.
create type order_state as enum (
    'received', 'validated', 'in_review', 'approved', 'charged', 'prepared', 'dispatched',
    'completed', 'cancelled', 'failed'
);

create type attempt_outcome as enum ('ok', 'error', 'timeout', 'declined', 'lost');

-- One row: the identity of this order database. A task queue of Temporal serves one order database.
create table database_identity (database_id uuid not null);
insert into database_identity values (gen_random_uuid());

create table orders (
    -- Every order id has this collation: its indexes support searches by prefix in any locale of the database.
    order_id text collate "C" check (order_id ~ '^[A-Za-z0-9_-]{1,64}$'),
    -- The workflow that processes the order: its namespace in a Temporal cluster, and its first run.
    temporal_cluster_id text not null,
    temporal_namespace text not null,
    workflow_run_id text not null,
    run_id text,
    fingerprint text not null,
    state order_state not null default 'received',
    -- The step that is due; a compensation once one was started. Null once the order has its outcome.
    current_step text,
    abort_reason text,
    aborted_at timestamptz,
    aborted_by text,
    address jsonb not null,
    address_version int not null default 1,
    items jsonb not null,
    -- In the minor unit of the currency, a code of ISO 4217.
    amount_cents bigint not null check (amount_cents >= 0),
    currency text not null default 'USD' check (currency ~ '^[A-Z]{3}$'),
    payment_id text not null,
    review text not null check (review in ('auto', 'manual')),
    execution text not null default 'fast' check (execution in ('fast', 'visible')),
    reviewer text,
    -- Idempotency keys of accepted requests.
    applied_request_ids text[] not null default '{}',
    requested_at timestamptz not null,
    accepted_at timestamptz not null,
    deadline_at timestamptz not null,
    -- When the order counts as late: by the limit of its load test (slo_seconds), else at its deadline.
    limit_at timestamptz not null,
    -- When an undecided manual review expires, so that the later steps have their time.
    review_until timestamptz not null,
    -- The clock of the order's events: strictly increasing, see db/queries/orders.sql.
    last_event_at timestamptz not null,
    finished_at timestamptz,
    end_to_end_ms bigint,
    completion_ms bigint,
    within_limit boolean,
    ingress_ms bigint,
    receive_ms bigint,
    validate_ms bigint,
    review_ms bigint,
    charge_ms bigint,
    prepare_ms bigint,
    dispatch_ms bigint,
    compensate_ms bigint,
    waiting_ms bigint,
    attempts int,
    failed_attempts int,
    timed_out_attempts int,
    -- The fault profile that was active when the order was accepted. Set with the outcome.
    fault_profile text,
    -- A search by prefix reads the newest acceptance time of all matches from the index.
    primary key (order_id) include (accepted_at),
    check ((state >= 'completed') = (finished_at is not null)),
    check (state < 'cancelled' or abort_reason is not null),
    check (state not in ('dispatched', 'completed') or abort_reason is null)
) with (fillfactor = 70);

comment on table orders is 'One row per order: its state and, once it has its outcome, how its time was spent.';

create index orders_open on orders (deadline_at) where state < 'completed';
create index orders_accepted on orders (accepted_at, order_id);
create index orders_run on orders (run_id, accepted_at, order_id) where run_id is not null;

-- The indexes below hold only finished orders, so each costs one entry per order, written with the outcome.
-- The latency is part of the key, so that the slowest orders of a time range are found without reading the others.
create index orders_latency on orders (accepted_at, completion_ms)
    include (state, within_limit, fault_profile, run_id) where finished_at is not null;
create index orders_run_latency on orders (run_id, accepted_at, completion_ms)
    include (state, within_limit, fault_profile) where finished_at is not null and run_id is not null;
create index orders_outcome_latency on orders (state, fault_profile, completion_ms desc, accepted_at)
    include (within_limit) where finished_at is not null;
create index orders_finished on orders (finished_at)
    include (completion_ms, state, within_limit) where finished_at is not null;
create index orders_late on orders (accepted_at desc, order_id desc) where within_limit = false;
create index orders_aborted on orders (state, accepted_at desc, order_id desc)
    where state in ('cancelled', 'failed');

-- The selection of orders for reports and charts; a null argument selects any value. PostgreSQL inlines the
-- function, so that the indexes are used.
create function selected_orders(
    of_run text, accepted_since timestamptz, accepted_until timestamptz,
    with_outcome order_state default null, under_fault_profile text default null
) returns setof orders language sql stable as $$
    select * from orders
    where (of_run is null or run_id = of_run)
        and (accepted_since is null or accepted_at >= accepted_since)
        and (accepted_until is null or accepted_at < accepted_until)
        and (with_outcome is null or state = with_outcome)
        and (under_fault_profile is null or fault_profile = under_fault_profile)
$$;

-- The state changes that one UPDATE may make. Same as row_changes() in db/transitions.py.
create function is_legal_transition(before order_state, after order_state) returns boolean
language sql immutable parallel safe
return (before, after) in (
        ('received', 'in_review'), ('in_review', 'approved'), ('approved', 'charged'),
        ('charged', 'prepared'), ('prepared', 'dispatched'), ('dispatched', 'completed')
    )
    or (before < 'dispatched' and after in ('cancelled', 'failed'));

create function reject_illegal_transition() returns trigger language plpgsql as $$
begin
    raise exception 'order % cannot change from % to %', old.order_id, old.state, new.state
        using errcode = 'check_violation';
end
$$;

create trigger orders_reject_illegal_transition before update on orders for each row
when (old.state >= 'completed' or (old.state <> new.state and not is_legal_transition(old.state, new.state)))
execute function reject_illegal_transition();

-- The last attempt of each step: running (started_at set) or ended (started_at null). Deleted with the outcome.
create table step_attempts (
    order_id text collate "C" not null references orders on delete cascade,
    step text not null,
    attempt int not null,
    started_at timestamptz,
    worker text not null,
    -- The attempt that the last update ended. Before PostgreSQL 18, RETURNING has no old values.
    ended_started_at timestamptz,
    ended_worker text,
    -- Failed attempts without an event, and those of them that timed out. Counted in `orders` with the outcome.
    omitted_attempts int not null default 0,
    omitted_timeouts int not null default 0,
    primary key (order_id, step)
) with (fillfactor = 50);

-- One row per Temporal namespace whose workers have used this database: the worker that reconciles its orders, and the
-- stop of the reconciler after it found more orphaned orders than RECONCILER_MAX_ORPHANS.
create table reconcilers (
    temporal_cluster_id text not null,
    temporal_namespace text not null,
    leader text,
    leader_until timestamptz,
    stopped_at timestamptz,
    orphans int,
    orphan_examples text[],
    -- When a person last confirmed that the orphaned orders of that time may be closed.
    confirmed_at timestamptz,
    primary key (temporal_cluster_id, temporal_namespace)
) with (fillfactor = 50);

-- Starts that admission control rejected, which are no orders: one row per second in which there were any.
create table rejected_starts (
    at timestamptz primary key,
    starts int not null check (starts > 0)
);

-- Whether a failed attempt has an event if another attempt follows. A step that fails for days has few events.
create function attempt_has_event(attempt int) returns boolean language sql immutable parallel safe
return attempt <= 32 or attempt & (attempt - 1) = 0;

-- migrate:down
drop function attempt_has_event;
drop table rejected_starts;
drop table reconcilers;
drop table step_attempts;
drop function selected_orders;
drop table orders;
drop table database_identity;
drop function reject_illegal_transition;
drop function is_legal_transition;
drop type attempt_outcome;
drop type order_state;
