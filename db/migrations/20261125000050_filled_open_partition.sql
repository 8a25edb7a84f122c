-- migrate:up

-- An open partition that has filled up, since nobody could make days in time, gets an end. PostgreSQL would
-- read all of it for that, while no event can be written, unless a validated constraint says already that
-- nothing lies beyond the end. So each call does one step of it and returns null while there is a next one:
-- add the constraint (a moment's lock), validate it (reads everything, keeps nobody from writing), make the
-- partitions (a moment's lock).
create or replace function ensure_event_partitions(days_ahead int default 7) returns int
language plpgsql security definer
set search_path = public, pg_temp set timezone = 'UTC' set datestyle = 'ISO' set lock_timeout = '500ms' as $$
declare
    today timestamptz := date_trunc('day', now());
    horizon timestamptz := today + interval '1 day' * (least(days_ahead, 60) + 1);
    -- The constraint refuses events beyond it: it must be far away if a later step cannot be made for long,
    -- and is moved on before it comes near.
    far timestamptz := greatest(horizon, today + interval '30 days');
    near timestamptz := today + interval '15 days';
    begins timestamptz;
    ends timestamptz;
    is_filled boolean;
    is_validated boolean;
    made int := 0;
begin
    if not pg_try_advisory_xact_lock(hashtext('ensure_event_partitions')) then
        -- Somebody else is making them.
        return 0;
    end if;
    select from_at into begins from event_partitions() where to_at is null;
    if begins >= horizon then
        return 0;
    end if;
    is_filled := exists (select from events_ahead);
    if is_filled then
        select convalidated,
            (regexp_match(pg_get_constraintdef(oid), 'at < ''([^'']+)'''))[1]::timestamptz
        into is_validated, ends
        from pg_constraint where conrelid = 'events_ahead'::regclass and conname = 'events_ahead_ends';
        if ends is null or ends < near then
            perform end_open_partition(begins, far);
            return null;
        end if;
        if not is_validated then
            begin
                alter table events_ahead validate constraint events_ahead_ends;
            exception when check_violation then
                -- Some clock was far ahead.
                select date_trunc('day', max(at)) + interval '1 day' into ends from events_ahead;
                perform end_open_partition(begins, ends);
            end;
            return null;
        end if;
    end if;
    -- In the order in which writers take them: the table, then its partitions.
    lock table only events in access exclusive mode;
    if not is_filled and exists (select from events_ahead) then
        return null;
    end if;
    alter table events detach partition events_ahead;
    if is_filled then
        -- What has come stays where it is, as one long day.
        execute format('alter table events_ahead rename to %I', 'events_' || to_char(begins, 'YYYYMMDD'));
        execute format('alter table events attach partition %I for values from (%L) to (%L)',
            'events_' || to_char(begins, 'YYYYMMDD'), begins, ends);
        execute format('alter table %I drop constraint events_ahead_ends',
            'events_' || to_char(begins, 'YYYYMMDD'));
        made := 1;
        begins := ends;
    else
        drop table events_ahead;
    end if;
    while begins < horizon loop
        -- A long absence is one partition, not one for each of its days.
        ends := greatest(begins + interval '1 day', today);
        execute format('create table %I partition of events for values from (%L) to (%L)',
            'events_' || to_char(begins, 'YYYYMMDD'), begins, ends);
        made := made + 1;
        begins := ends;
    end loop;
    execute format('create table events_ahead partition of events for values from (%L) to (maxvalue)', begins);
    return made;
end
$$;

create function end_open_partition(begins timestamptz, ends timestamptz) returns void language plpgsql as $$
begin
    alter table events_ahead drop constraint if exists events_ahead_ends;
    execute format(
        'alter table events_ahead add constraint events_ahead_ends check (at >= %L and at < %L) not valid',
        begins, ends);
end
$$;
revoke execute on function end_open_partition(timestamptz, timestamptz) from public;

-- migrate:down
drop function end_open_partition;
alter table events_ahead drop constraint if exists events_ahead_ends;

create or replace function ensure_event_partitions(days_ahead int default 7) returns int
language plpgsql security definer
set search_path = public, pg_temp set timezone = 'UTC' set lock_timeout = '500ms' as $$
declare
    today timestamptz := date_trunc('day', now());
    horizon timestamptz := today + interval '1 day' * (least(days_ahead, 60) + 1);
    begins timestamptz;
    ends timestamptz;
    made int := 0;
begin
    if not pg_try_advisory_xact_lock(hashtext('ensure_event_partitions')) then
        return 0;
    end if;
    select from_at into begins from event_partitions() where to_at is null;
    if begins >= horizon then
        return 0;
    end if;
    lock table only events in access exclusive mode;
    alter table events detach partition events_ahead;
    select date_trunc('day', max(at)) + interval '1 day' into ends from events_ahead;
    if ends is not null then
        ends := greatest(ends, today + interval '1 day');
        execute format('alter table events_ahead rename to %I', 'events_' || to_char(begins, 'YYYYMMDD'));
        execute format('alter table events attach partition %I for values from (%L) to (%L)',
            'events_' || to_char(begins, 'YYYYMMDD'), begins, ends);
        made := 1;
        begins := ends;
    else
        drop table events_ahead;
    end if;
    while begins < horizon loop
        ends := greatest(begins + interval '1 day', today);
        execute format('create table %I partition of events for values from (%L) to (%L)',
            'events_' || to_char(begins, 'YYYYMMDD'), begins, ends);
        made := made + 1;
        begins := ends;
    end loop;
    execute format('create table events_ahead partition of events for values from (%L) to (maxvalue)', begins);
    return made;
end
$$;
