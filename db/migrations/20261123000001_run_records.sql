-- migrate:up

-- What a load test leaves behind, beside its orders. `statistics` is an array with one object a second;
-- `chaos` an array with one object for each disturbance and its time; `completion_ms` the exact completion
-- times of the run's orders, so that two runs can be compared long after their orders are gone.
alter table runs
    add column stages jsonb not null default '[]',
    add column chaos jsonb not null default '[]',
    add column commit_hash text,
    add column completion_ms int[],
    add column late_orders int,
    add column counted_orders int;

create index runs_started on runs (started_at desc);

-- migrate:down
drop index runs_started;
alter table runs
    drop column stages,
    drop column chaos,
    drop column commit_hash,
    drop column completion_ms,
    drop column late_orders,
    drop column counted_orders;
