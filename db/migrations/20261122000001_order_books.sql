-- migrate:up

-- The members stand in the order of the path, so that states can be compared with < and >.
create type order_state as enum (
    'received', 'validated', 'in_review', 'approved', 'charged', 'prepared', 'dispatched',
    'completed', 'cancelled', 'failed'
);

create type attempt_outcome as enum ('ok', 'error', 'timeout', 'declined', 'lost');

create table orders (
    order_id text primary key check (order_id ~ '^[A-Za-z0-9_-]{1,64}$'),
    workflow_run_id text not null,
    run_id text,
    fingerprint text not null,
    state order_state not null default 'received',
    current_step text,
    abort_reason text,
    aborted_at timestamptz,
    aborted_by text,
    address jsonb not null,
    address_version int not null default 1,
    items jsonb not null,
    amount_cents bigint not null check (amount_cents >= 0),
    payment_id text not null,
    review text not null check (review in ('auto', 'manual')),
    reviewer text,
    -- Ids of accepted requests, so that a repeated one gets the same answer.
    applied_request_ids text[] not null default '{}',
    requested_at timestamptz not null,
    accepted_at timestamptz not null,
    deadline_at timestamptz not null,
    -- Also the clock of the order's events: strictly increasing, see db/queries/orders.sql.
    last_event_at timestamptz not null,
    finished_at timestamptz,
    end_to_end_ms int,
    completion_ms int,
    within_limit boolean,
    ingress_ms int,
    receive_ms int,
    validate_ms int,
    review_ms int,
    charge_ms int,
    prepare_ms int,
    dispatch_ms int,
    compensate_ms int,
    waiting_ms int,
    attempts int,
    failed_attempts int,
    timed_out_attempts int,
    check ((state >= 'completed') = (finished_at is not null)),
    check (state < 'cancelled' or abort_reason is not null),
    check (state not in ('dispatched', 'completed') or abort_reason is null)
) with (fillfactor = 70);

comment on table orders is 'One row an order: where it stands, and once it has its outcome, where its time went.';

create index orders_open on orders (deadline_at) where state < 'completed';
create index orders_accepted on orders (accepted_at, order_id);
create index orders_run on orders (run_id, accepted_at, order_id) where run_id is not null;

create function reject_illegal_transition() returns trigger language plpgsql as $$
begin
    raise exception 'order % may not go from % to %', old.order_id, old.state, new.state
        using errcode = 'check_violation';
end
$$;

create trigger orders_never_step_back before update on orders for each row
when (new.state < old.state or old.state >= 'completed')
execute function reject_illegal_transition();

-- The attempt of each step that is under way (started_at set) or was the last one (started_at null).
-- Rows leave with the outcome of the order.
create table step_attempts (
    order_id text not null references orders on delete cascade,
    step text not null,
    attempt int not null,
    started_at timestamptz,
    worker text not null,
    primary key (order_id, step)
) with (fillfactor = 50);

create table payments (
    payment_id text primary key,
    order_id text not null unique references orders on delete cascade,
    amount_cents bigint not null,
    status text not null default 'pending' check (status in ('pending', 'charged', 'refunded', 'voided')),
    charged_at timestamptz,
    refunded_at timestamptz
) with (fillfactor = 70);

create table shipments (
    order_id text primary key references orders on delete cascade,
    status text not null check (status in ('packed', 'dispatched', 'recalled')),
    tracking text,
    label_address jsonb,
    label_version int,
    packed_at timestamptz,
    dispatched_at timestamptz,
    recalled_at timestamptz
) with (fillfactor = 70);

-- A named load test. Its orders carry the run_id.
create table runs (
    run_id text primary key check (run_id ~ '^[A-Za-z0-9_-]{1,64}$'),
    scenario text not null,
    options jsonb not null default '{}',
    fault_profile text,
    fault_seed bigint,
    started_at timestamptz not null default now(),
    ended_at timestamptz,
    machine jsonb not null default '{}',
    statistics jsonb,
    verdict jsonb
);

-- Append only. (order_id, at) is unique because each event's time is the order's own strictly
-- increasing last_event_at, taken under the lock of its row.
create table events (
    order_id text not null,
    at timestamptz not null,
    kind text not null,
    state order_state not null,
    step text,
    attempt int,
    outcome attempt_outcome,
    started_at timestamptz,
    duration_ms double precision,
    worker text,
    detail jsonb,
    primary key (order_id, at)
) partition by range (at);

create table events_default partition of events default;

create function ensure_event_partitions(days_ahead int default 7) returns int language plpgsql as $$
declare
    day date;
    made int := 0;
begin
    -- Two processes may start at once; one of them makes the partitions.
    perform pg_advisory_xact_lock(hashtext('ensure_event_partitions'));
    for offset_days in 0 .. days_ahead loop
        day := (now() at time zone 'UTC')::date + offset_days;
        if to_regclass(format('events_%s', to_char(day, 'YYYYMMDD'))) is null
           and not exists (
               select from events_default
               where at >= day::timestamp at time zone 'UTC' and at < (day + 1)::timestamp at time zone 'UTC'
           )
        then
            execute format(
                'create table %I partition of events for values from (%L) to (%L)',
                format('events_%s', to_char(day, 'YYYYMMDD')),
                day::timestamp at time zone 'UTC', (day + 1)::timestamp at time zone 'UTC'
            );
            made := made + 1;
        end if;
    end loop;
    return made;
end
$$;

select ensure_event_partitions();

-- migrate:down
drop table events;
drop function ensure_event_partitions;
drop table runs, shipments, payments, step_attempts, orders;
drop function reject_illegal_transition;
drop type attempt_outcome;
drop type order_state;
