-- migrate:up

-- Old events leave by whole partitions, without holding anybody up. A default partition would stand in the
-- way: beside one, no partition can be detached concurrently. So the newest partition is open instead: it
-- takes whatever lies beyond the days that have been made, and no event is ever without a place.

-- `to_at` is null for the open partition.
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

alter table events detach partition events_default;

-- What lay in the default partition gets its days.
do $$
declare
    day timestamptz;
begin
    set local timezone = 'UTC';
    for day in select distinct date_trunc('day', at) from events_default union select now()::date - 1 order by 1 loop
        if not exists (select from event_partitions() where from_at <= day and to_at > day) then
            execute format('create table %I partition of events for values from (%L) to (%L)',
                'events_' || to_char(day, 'YYYYMMDD'), day, day + interval '1 day');
        end if;
    end loop;
    insert into events select * from events_default;
    execute format('create table events_ahead partition of events for values from (%L) to (maxvalue)',
        (select max(to_at) from event_partitions()));
end
$$;

drop table events_default;
drop function ensure_event_partitions;

-- Makes a partition for each day until `days_ahead` days from now, and returns how many it made. Whoever
-- writes events may call it. It locks the table for a moment, and gives up rather than wait for that long.
create function ensure_event_partitions(days_ahead int default 7) returns int
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
        -- Somebody else is making them.
        return 0;
    end if;
    select from_at into begins from event_partitions() where to_at is null;
    if begins >= horizon then
        return 0;
    end if;
    -- In the order in which writers take them: the table, then its partitions.
    lock table only events in access exclusive mode;
    alter table events detach partition events_ahead;
    select date_trunc('day', max(at)) + interval '1 day' into ends from events_ahead;
    if ends is not null then
        -- Nobody has made days in time. What came meanwhile stays where it is, as one long day.
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

select ensure_event_partitions();

-- Which events are gone on purpose. A row is written before they go, so that the audit never misses
-- events that it was not told about.
create table dropped_events (
    to_at timestamptz primary key,
    from_at timestamptz not null,
    partition text not null,
    bytes bigint not null,
    decided_at timestamptz not null default now(),
    -- Null while the partition is on its way out.
    dropped_at timestamptz
);

-- Orders accepted since then have all their events.
create function events_since() returns timestamptz language sql stable
return (select coalesce(max(to_at), '-infinity') from dropped_events);

-- migrate:down
drop function events_since;
drop table dropped_events;
alter table events detach partition events_ahead;
create table events_default partition of events default;
insert into events select * from events_ahead;
drop table events_ahead;
drop function ensure_event_partitions, event_partitions;

create function ensure_event_partitions(days_ahead int default 7) returns int language plpgsql as $$
declare
    day date;
    made int := 0;
begin
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
