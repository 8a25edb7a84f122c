-- migrate:up

-- Finished orders, counted in buckets by minute, hour and day of acceptance, so that a chart of a million orders reads
-- a few thousand rows. Triggers update the rollup in the transaction that writes the outcome, so it stays exact when
-- any component crashes.

-- 15000 * 2^(n/16), rounded: edges 4.4 % apart, one of them at the limit of 15,000 ms. A bucket holds the times above
-- the previous edge and up to its own, so 15,000 ms is within the limit. Same as EDGES_MS in db/read_models/latency_buckets.py.
create function latency_edges() returns bigint[] language sql immutable parallel safe
return array[
        47, 49, 51, 54, 56, 59, 61, 64, 67, 70, 73, 76, 79, 83, 87, 90, 94, 99, 103, 107, 112, 117, 122,
        128, 133, 139, 146, 152, 159, 166, 173, 181, 189, 197, 206, 215, 224, 234, 245, 256, 267, 279, 291,
        304, 317, 331, 346, 361, 377, 394, 412, 430, 449, 469, 490, 511, 534, 557, 582, 608, 635, 663, 692,
        723, 755, 788, 823, 860, 898, 938, 979, 1022, 1068, 1115, 1164, 1216, 1270, 1326, 1385, 1446, 1510,
        1577, 1646, 1719, 1796, 1875, 1958, 2045, 2135, 2230, 2328, 2432, 2539, 2652, 2769, 2892, 3020,
        3153, 3293, 3439, 3591, 3750, 3916, 4089, 4270, 4460, 4657, 4863, 5078, 5303, 5538, 5783, 6039,
        6307, 6586, 6878, 7182, 7500, 7832, 8179, 8541, 8919, 9314, 9726, 10157, 10607, 11076, 11567,
        12079, 12613, 13172, 13755, 14364, 15000, 15664, 16358, 17082, 17838, 18628, 19453, 20314, 21213,
        22152, 23133, 24157, 25227, 26344, 27510, 28728, 30000, 31328, 32715, 34164, 35676, 37256, 38905,
        40628, 42426, 44305, 46266, 48315, 50454, 52688, 55020, 57456, 60000, 62656, 65430, 68327, 71352,
        74511, 77810, 81255, 84853, 88610, 92533, 96629, 100908, 105375, 110040, 114912, 120000, 125313,
        130861, 136655, 142705, 149023, 155621, 162511, 169706, 177219, 185065, 193259, 201815, 210750,
        220081, 229825, 240000, 250626, 261722, 273309, 285410, 298046, 311241, 325021, 339411, 354438,
        370131, 386518, 403630, 421501, 440162, 459650, 480000, 501251, 523444, 546619, 570819, 596092,
        622483, 650043, 678823, 708877, 740261, 773035, 807261, 843001, 880324, 919299, 960000, 1002503,
        1046887, 1093237, 1141639, 1192183, 1244966, 1300085, 1357645, 1417753, 1480522, 1546071, 1614521,
        1686002, 1760648, 1838598, 1920000, 2005006, 2093775, 2186474, 2283278, 2384367, 2489932, 2600171,
        2715290, 2835506, 2961045, 3092141, 3229042, 3372004, 3521296, 3677197, 3840000
]::bigint[];

create function latency_bucket(ms bigint) returns bigint language sql immutable parallel safe
return coalesce((latency_edges())[width_bucket(ms - 1, latency_edges()) + 1], 9223372036854775807);

create function rollup_start(moment timestamptz, grain_seconds int) returns timestamptz
language sql immutable parallel safe
return date_bin(make_interval(secs => grain_seconds), moment, '2000-01-01 00:00:00+00');

create table latency_rollup (
    -- 60, 3600 or 86400. Each order is counted once per grain.
    grain_seconds int not null,
    -- The start of the minute, hour or day of acceptance.
    at timestamptz not null,
    -- '' for orders without a run.
    run_id text not null,
    outcome order_state not null,
    fault_profile text not null,
    upto_ms bigint not null,
    orders bigint not null,
    late bigint not null,
    completion_ms bigint not null,
    longest_ms bigint not null,
    attempts bigint not null,
    failed_attempts bigint not null,
    timed_out_attempts bigint not null,
    primary key (grain_seconds, at, run_id, outcome, fault_profile, upto_ms)
) with (fillfactor = 70);
create index latency_rollup_run on latency_rollup (run_id, grain_seconds, at) where run_id <> '';
comment on table latency_rollup is
    'Finished orders by completion time. upto_ms is the upper edge of the bucket; completion_ms and attempts are sums.';

-- The rows of several time ranges, each range with its grain; a null outcome or fault profile selects all. `offset 0`
-- makes PostgreSQL read each range through the index; as a plain join it would scan the whole table.
create function selected_rollup(
    grains int[], starts timestamptz[], ends timestamptz[], with_outcome order_state, under_fault_profile text
) returns setof latency_rollup language sql stable as $$
    select r.*
    from unnest(grains, starts, ends) span (grain, since, until)
    cross join lateral (
        select * from latency_rollup
        where grain_seconds = span.grain and at >= span.since and at < span.until offset 0
    ) r
    where (with_outcome is null or r.outcome = with_outcome)
        and (under_fault_profile is null or r.fault_profile = under_fault_profile)
$$;

create function update_latency_rollup() returns trigger language plpgsql as $$
begin
    -- All transactions write the finest grain first, so that they cannot deadlock.
    insert into latency_rollup as r
    select grain, rollup_start(new.accepted_at, grain), coalesce(new.run_id, ''), new.state, new.fault_profile,
        latency_bucket(new.completion_ms), 1, (not new.within_limit)::int, new.completion_ms, new.completion_ms,
        new.attempts, new.failed_attempts, new.timed_out_attempts
    from (values (60), (3600), (86400)) grains (grain)
    on conflict (grain_seconds, at, run_id, outcome, fault_profile, upto_ms) do update set
        orders = r.orders + 1,
        late = r.late + excluded.late,
        completion_ms = r.completion_ms + excluded.completion_ms,
        longest_ms = greatest(r.longest_ms, excluded.longest_ms),
        attempts = r.attempts + excluded.attempts,
        failed_attempts = r.failed_attempts + excluded.failed_attempts,
        timed_out_attempts = r.timed_out_attempts + excluded.timed_out_attempts;
    return null;
end
$$;

create trigger orders_update_latency_rollup after update of finished_at on orders for each row
when (new.finished_at is not null and old.finished_at is null)
execute function update_latency_rollup();
create trigger orders_update_latency_rollup_on_insert after insert on orders for each row
when (new.finished_at is not null)
execute function update_latency_rollup();

-- Recounts all finished orders. Blocks writers of orders until the end of the transaction, so that no outcome is missed.
create function rebuild_latency_rollup() returns bigint language plpgsql as $$
declare
    counted bigint;
begin
    lock table orders in share mode;
    truncate latency_rollup;
    insert into latency_rollup
    select grain, rollup_start(accepted_at, grain), coalesce(run_id, ''), state, fault_profile,
        latency_bucket(completion_ms), count(*), count(*) filter (where not within_limit),
        sum(completion_ms), max(completion_ms), sum(attempts), sum(failed_attempts), sum(timed_out_attempts)
    from orders cross join (values (60), (3600), (86400)) grains (grain)
    where finished_at is not null
    group by 1, 2, 3, 4, 5, 6
    -- Sorted by primary key, so that rows that are read together are stored together.
    order by 1, 2, 3, 4, 5, 6;
    get diagnostics counted = row_count;
    return counted;
end
$$;
revoke execute on function rebuild_latency_rollup() from public;

-- migrate:down
drop trigger orders_update_latency_rollup_on_insert on orders;
drop trigger orders_update_latency_rollup on orders;
drop function rebuild_latency_rollup, update_latency_rollup, selected_rollup;
drop table latency_rollup;
drop function rollup_start, latency_bucket, latency_edges;
