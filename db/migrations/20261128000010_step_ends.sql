-- migrate:up

-- When each forward step before dispatch ended, in ms since acceptance, in path order: step_ends_ms(order_id, accepted_at)
-- at the outcome. Null in orders that finished before this migration; their events still have the times.
alter table orders add column step_ends_ms bigint[];

-- migrate:down
alter table orders drop column step_ends_ms;
