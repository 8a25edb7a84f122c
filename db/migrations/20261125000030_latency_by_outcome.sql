-- migrate:up

-- Finished orders by outcome, fault profile and time, so that what a filter leaves is read without the rest: the
-- slowest of a few, or of those that were all quick, and every figure of a rare outcome from the index alone.
-- In place of an index by time alone, so an outcome costs no more than before.
create index orders_outcome_latency on orders (state, fault_profile, completion_ms desc, accepted_at)
    include (within_limit) where finished_at is not null;
drop index orders_slowest;

-- migrate:down
create index orders_slowest on orders (completion_ms desc)
    include (accepted_at, state, fault_profile, run_id) where finished_at is not null;
drop index orders_outcome_latency;
