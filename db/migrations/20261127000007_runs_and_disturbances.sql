-- migrate:up

-- A named load test. Its orders carry the run_id.
create table runs (
    run_id text primary key check (run_id ~ '^[A-Za-z0-9_-]{1,64}$'),
    scenario text not null,
    options jsonb not null default '{}',
    stages jsonb not null default '[]',
    fault_profile text,
    fault_seed bigint,
    started_at timestamptz not null default now(),
    ended_at timestamptz,
    commit_hash text,
    machine jsonb not null default '{}',
    -- One object per second.
    statistics jsonb,
    verdict jsonb,
    -- One object per disturbance.
    chaos jsonb not null default '[]',
    -- The exact completion times, so that runs can be compared after their orders were deleted.
    completion_ms int[],
    late_orders int,
    counted_orders int
);
create index runs_started on runs (started_at desc);

-- Kills, pauses, stops and restarts, made by hand or by a load test (run_id), for the charts.
create table disturbances (
    at timestamptz not null,
    component text not null,
    action text not null,
    run_id text
);
create index disturbances_at on disturbances (at);

-- migrate:down
drop table disturbances, runs;
