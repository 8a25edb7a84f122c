-- migrate:up

-- Append only. (order_id, at) is unique: the time of each event is the order's own strictly increasing
-- last_event_at, taken under the lock of its row.
--
-- One partition per day (UTC), so that retention can detach and drop whole days without blocking writers. There is
-- no default partition, because partitions cannot be detached concurrently beside one. Instead the last partition,
-- events_ahead, has no upper bound and accepts every later event.
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

-- `to_at` is null for the unbounded partition.
create function event_partitions() returns table (name text, from_at timestamptz, to_at timestamptz)
language sql stable set datestyle = 'ISO' as $$
    select c.relname::text, (regexp_match(bound.text, 'FROM \(''([^'']+)''\)'))[1]::timestamptz,
        (regexp_match(bound.text, 'TO \(''([^'']+)''\)'))[1]::timestamptz
    from pg_inherits i
    join pg_class c on c.oid = i.inhrelid
    cross join lateral (select pg_get_expr(c.relpartbound, c.oid) as text) bound
    where i.inhparent = 'events'::regclass and not i.inhdetachpending
    order by 2
$$;

create function bound_open_partition(begins timestamptz, ends timestamptz) returns void language plpgsql as $$
begin
    alter table events_ahead drop constraint if exists events_ahead_ends;
    execute format(
        'alter table events_ahead add constraint events_ahead_ends check (at >= %L and at < %L) not valid',
        begins, ends);
end
$$;
revoke execute on function bound_open_partition(timestamptz, timestamptz) from public;

-- Creates a partition for each day up to `days_ahead` days from now, and returns how many it created. Locks the
-- table briefly; fails with lock_not_available rather than wait longer than 500 ms for that lock.
--
-- events_ahead holds rows if no process could create partitions in time. To give it an upper bound, PostgreSQL
-- would scan it under a lock that blocks all writers, unless a validated constraint already proves the bound. So
-- each call then does one step and returns null while there is a next one: add the constraint (brief lock),
-- validate it (scans without blocking writers), create the partitions (brief lock).
create function ensure_event_partitions(days_ahead int default 7) returns int
language plpgsql security definer
set search_path = public, pg_temp set timezone = 'UTC' set datestyle = 'ISO' set lock_timeout = '500ms' as $$
declare
    today timestamptz := date_trunc('day', now());
    horizon timestamptz := today + interval '1 day' * (least(days_ahead, 60) + 1);
    -- The constraint rejects events beyond it. It must be far ahead in case a later step is delayed, and is moved
    -- when it comes near.
    far timestamptz := greatest(horizon, today + interval '30 days');
    near timestamptz := today + interval '15 days';
    begins timestamptz;
    ends timestamptz;
    has_rows boolean;
    is_validated boolean;
    created int := 0;
begin
    if not pg_try_advisory_xact_lock(hashtext('ensure_event_partitions')) then
        -- Another process is creating them.
        return 0;
    end if;
    select from_at into begins from event_partitions() where to_at is null;
    if begins >= horizon then
        return 0;
    end if;
    has_rows := exists (select from events_ahead);
    if has_rows then
        select convalidated,
            (regexp_match(pg_get_constraintdef(oid), 'at < ''([^'']+)'''))[1]::timestamptz
        into is_validated, ends
        from pg_constraint where conrelid = 'events_ahead'::regclass and conname = 'events_ahead_ends';
        if ends is null or ends < near then
            perform bound_open_partition(begins, far);
            return null;
        end if;
        if not is_validated then
            begin
                alter table events_ahead validate constraint events_ahead_ends;
            exception when check_violation then
                -- The clock of some writer was far ahead.
                select date_trunc('day', max(at)) + interval '1 day' into ends from events_ahead;
                perform bound_open_partition(begins, ends);
            end;
            return null;
        end if;
    end if;
    -- The lock order of writers: the table, then its partitions.
    lock table only events in access exclusive mode;
    if not has_rows and exists (select from events_ahead) then
        return null;
    end if;
    alter table events detach partition events_ahead;
    if has_rows then
        -- Its rows stay where they are, as one partition of several days.
        execute format('alter table events_ahead rename to %I', 'events_' || to_char(begins, 'YYYYMMDD'));
        execute format('alter table events attach partition %I for values from (%L) to (%L)',
            'events_' || to_char(begins, 'YYYYMMDD'), begins, ends);
        execute format('alter table %I drop constraint events_ahead_ends',
            'events_' || to_char(begins, 'YYYYMMDD'));
        created := 1;
        begins := ends;
    else
        drop table events_ahead;
    end if;
    while begins < horizon loop
        -- Days before today are one partition together.
        ends := greatest(begins + interval '1 day', today);
        execute format('create table %I partition of events for values from (%L) to (%L)',
            'events_' || to_char(begins, 'YYYYMMDD'), begins, ends);
        created := created + 1;
        begins := ends;
    end loop;
    execute format('create table events_ahead partition of events for values from (%L) to (maxvalue)', begins);
    return created;
end
$$;
revoke execute on function ensure_event_partitions(int) from public;

-- From yesterday, for a clock that is set back.
do $$
begin
    execute format('create table events_ahead partition of events for values from (%L) to (maxvalue)',
        date_trunc('day', now(), 'UTC') - interval '1 day');
end
$$;
select ensure_event_partitions();

-- The partitions that retention dropped. A row is inserted before its partition is detached, so that the audit
-- never misses events without knowing why.
create table dropped_events (
    to_at timestamptz primary key,
    from_at timestamptz not null,
    partition text not null,
    bytes bigint not null,
    decided_at timestamptz not null default now(),
    -- Null until the partition is dropped.
    dropped_at timestamptz
);

-- Orders accepted since then have all their events.
create function events_since() returns timestamptz language sql stable
return (select coalesce(max(to_at), '-infinity') from dropped_events);

-- migrate:down
drop function events_since;
drop table dropped_events;
drop table events;
drop function ensure_event_partitions, bound_open_partition, event_partitions;
