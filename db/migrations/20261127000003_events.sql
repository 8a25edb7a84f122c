-- migrate:up

-- Append-only, except for retention. (order_id, at) is unique: the time of each event is the order's own strictly increasing
-- last_event_at, taken under the lock of its row.
create table events (
    order_id text collate "C" not null,
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
);

-- The end of each completed forward step, in ms since a time. One row, for use in a lateral join: PostgreSQL inlines it.
-- The last condition only saves time: the other events are no end of a step.
create function step_ends_ms(of_order text, since timestamptz)
returns table (receive_ms bigint, validate_ms bigint, review_ms bigint, charge_ms bigint, prepare_ms bigint)
language sql stable
begin atomic
    select (extract(epoch from min(at) filter (where step = 'receive' and outcome = 'ok') - since) * 1000)::bigint,
        (extract(epoch from min(at) filter (where step = 'validate' and outcome = 'ok') - since) * 1000)::bigint,
        (extract(epoch from min(at) filter (where step = 'review' and state = 'approved') - since) * 1000)::bigint,
        (extract(epoch from min(at) filter (where step = 'charge' and outcome = 'ok') - since) * 1000)::bigint,
        (extract(epoch from min(at) filter (where step = 'prepare' and outcome = 'ok') - since) * 1000)::bigint
    from events where order_id = of_order and (outcome = 'ok' or state = 'approved');
end;

-- One row. Retention has deleted the events of orders accepted before `events_since`; later orders have all events.
create table event_retention (events_since timestamptz not null);
insert into event_retention values ('-infinity');

create function events_since() returns timestamptz language sql stable
return (select events_since from event_retention);

-- migrate:down
drop function events_since, step_ends_ms;
drop table event_retention, events;
