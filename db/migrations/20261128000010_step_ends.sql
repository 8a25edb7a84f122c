-- migrate:up

-- For each forward step before dispatch, in path order: when it ended, in ms since acceptance. It is the result of the
-- function step_ends_ms(order_id, accepted_at), stored with the outcome. Null in orders that finished before this
-- migration; their events still have the times.
alter table orders add column step_ends_ms bigint[];

-- migrate:down
alter table orders drop column step_ends_ms;
