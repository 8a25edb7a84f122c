-- migrate:up

-- Load tests. The orders of a load test have its run_id.
create table runs (
    run_id text primary key check (run_id ~ '^[A-Za-z0-9_-]{1,64}$'),
    -- A name and remarks that people may change. The run id stays, because the orders have it.
    label text,
    notes text not null default '',
    scenario text not null,
    options jsonb not null default '{}',
    stages jsonb not null default '[]',
    fault_profile text,
    fault_seed bigint,
    started_at timestamptz not null default now(),
    ended_at timestamptz,
    commit_hash text,
    machine jsonb not null default '{}',
    -- An array with one object per second.
    statistics jsonb,
    verdict jsonb,
    -- An array with one object per disturbance.
    chaos jsonb not null default '[]',
    -- The exact completion times by scheduled send time, to compare runs without reading their orders. Null for an
    -- order without an outcome.
    completion_ms bigint[],
    late_orders int,
    counted_orders int
);
create index runs_started on runs (started_at desc);

-- At most one row: the run that other runs are compared with.
create table baseline_run (
    is_only boolean primary key default true check (is_only),
    run_id text not null references runs on delete cascade
);

-- Kills, pauses, stops and restarts of components, for the charts. run_id is null for those outside a load test.
-- is_planned: the load test made it; its `chaos` has it too when it ends.
create table disturbances (
    at timestamptz not null,
    component text not null,
    action text not null,
    run_id text,
    is_planned boolean not null default false
);
create index disturbances_at on disturbances (at);

-- migrate:down
drop table disturbances, baseline_run, runs;
