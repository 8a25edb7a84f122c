-- A generated history, one day at a time. `seeded` has one row per order, derived from a hash of its number; the
-- other statements insert it into the tables. All times are whole milliseconds after acceptance.

-- name: seeded
-- Four load tests per day, each ten minutes long with a twentieth of the orders, under the assignment faults.
create temporary table seeded on commit drop as
select n, %(prefix)s::text || '-' || n as order_id,
    case when run >= 0 then %(prefix)s::text || '-run' || run end as run_id,
    at as accepted_at, fault_profile, outcome, 4000 + (u2 * 2000)::int * 10 as amount_cents, d.*, t.*
from generate_series(0, %(orders)s::int - 1) n
cross join lateral (select
    (hashint8extended(n, 1) & 1048575) / 1048576.0 as u1, (hashint8extended(n, 2) & 1048575) / 1048576.0 as u2,
    (hashint8extended(n, 3) & 1048575) / 1048576.0 as u3, (hashint8extended(n, 4) & 1048575) / 1048576.0 as u4,
    (hashint8extended(n, 5) & 1048575) / 1048576.0 as u5, n * 20 / %(orders)s::int as twentieth
) drawn
cross join lateral (select case when twentieth < 4 then twentieth else -1 end as run) which
cross join lateral (select date_trunc('milliseconds', %(day)s::timestamptz + case
    when run >= 0 then make_interval(hours => 3 + 6 * run) + interval '600 s' * (n::float8 * 20 / %(orders)s::int - run)
    else interval '86400 s' * ((n::float8 / %(orders)s::int - 0.2) / 0.8) end) as at) moment
cross join lateral (select
    case when extract(hour from at at time zone 'UTC')::int %% 6 = 3 and extract(minute from at at time zone 'UTC') < 10
        then 'assignment' else 'none' end as fault_profile,
    case when u1 < 0.94 then 'completed' when u1 < 0.99 then 'cancelled' else 'failed' end::order_state as outcome
) kind
-- About 2.5 s without faults, 4 to 12 s with them; longer when dispatch never succeeded, and sometimes late.
cross join lateral (select case fault_profile when 'none' then 120 else 1500 end as mean_ms,
    case outcome when 'failed' then 3000 else 0 end
        + case when hashint8extended(n, 6) %% case fault_profile when 'none' then 3000 else 300 end = 0 then 11000 else 0 end
        as stuck_ms) slowness
cross join lateral (select
    10 + (u2 * 20)::int as received, (-ln(1 - u3) * mean_ms)::int + 1 as failing_1,
    (-ln(1 - u4) * mean_ms)::int + 1 as failing_2, (-ln(1 - u5) * mean_ms)::int + 1 + stuck_ms as failing_3
) d
cross join lateral (select
    received + 8 as validated,
    received + 2008 as approved,
    received + 2012 + failing_1 as first_failed,
    received + 2040 + failing_1 as charged,
    received + 2044 + failing_1 + failing_2 as second_failed,
    received + 2070 + failing_1 + failing_2 as prepared,
    received + 2074 + failing_1 + failing_2 + failing_3 as third_failed,
    received + 2100 + failing_1 + failing_2 + failing_3 as dispatched,
    received + 2112 + failing_1 + failing_2 + failing_3 as total_ms
) t;

-- name: orders
-- Aborted orders were charged and prepared, and are refunded and recalled.
insert into orders (
    order_id, temporal_cluster_id, temporal_namespace, workflow_run_id, run_id, fingerprint, state, abort_reason,
    aborted_at, aborted_by, address, items, amount_cents, payment_id, review, reviewer, requested_at, accepted_at,
    deadline_at, limit_at, review_until, last_event_at, finished_at, end_to_end_ms, completion_ms, within_limit, ingress_ms,
    receive_ms, validate_ms, review_ms, charge_ms,
    prepare_ms, dispatch_ms, compensate_ms, waiting_ms, attempts, failed_attempts, timed_out_attempts, fault_profile,
    step_ends_ms
)
select order_id, 'seeded', 'default', 'seeded', run_id, md5(order_id), outcome,
    case outcome when 'cancelled' then 'customer_cancelled' when 'failed' then 'shipping_failed' end,
    case when outcome <> 'completed' then accepted_at + interval '1 ms' * third_failed end,
    case outcome when 'cancelled' then 'customer' when 'failed' then 'system' end,
    '{"street": "1 Main Street", "city": "Springfield", "state": "IL", "zip": "62701"}',
    jsonb_build_array(jsonb_build_object('sku', 'SEED', 'quantity', 1, 'unit_price_cents', amount_cents)),
    amount_cents, 'pay-' || order_id, 'auto', 'auto',
    accepted_at - interval '4 ms', accepted_at, accepted_at + interval '15 s', accepted_at + interval '15 s', accepted_at + interval '9 s',
    accepted_at + interval '1 ms' * total_ms, accepted_at + interval '1 ms' * total_ms,
    total_ms + 4, total_ms, total_ms <= 15000, 4,
    received - 8, 7, 2000,
    charged - approved - 8, prepared - charged - 8,
    case when outcome = 'completed' then dispatched - prepared - 8 else third_failed - prepared - 4 end,
    case when outcome = 'completed' then 0 else 20 end,
    total_ms - (received - 8) - 7 - 2000 - (charged - approved - 8) - (prepared - charged - 8)
        - case when outcome = 'completed' then dispatched - prepared - 8 else third_failed - prepared - 4 + 20 end,
    case when outcome = 'completed' then 8 else 9 end, 3, 1, fault_profile,
    array[received, validated - 1, approved, charged, prepared]
from seeded;

-- name: payments
insert into payments (payment_id, order_id, amount_cents, status, charged_at, refunded_at)
select 'pay-' || order_id, order_id, amount_cents, case outcome when 'completed' then 'charged' else 'refunded' end,
    accepted_at + interval '1 ms' * charged,
    case when outcome <> 'completed' then accepted_at + interval '1 ms' * dispatched end
from seeded;

-- name: shipments
insert into shipments (order_id, status, tracking, label_address, label_version, packed_at, dispatched_at, recalled_at)
select order_id, case outcome when 'completed' then 'dispatched' else 'recalled' end,
    case outcome when 'completed' then 'TRK-' || n end,
    case outcome when 'completed' then '{"street": "1 Main Street", "city": "Springfield", "state": "IL", "zip": "62701"}'::jsonb end,
    case outcome when 'completed' then 1 end, accepted_at + interval '1 ms' * prepared,
    case outcome when 'completed' then accepted_at + interval '1 ms' * dispatched end,
    case when outcome <> 'completed' then accepted_at + interval '1 ms' * dispatched end
from seeded;

-- name: ledger
insert into provider.ledger (payment_id, order_id, kind, amount_cents, at)
select 'pay-' || order_id, order_id, 'charge', amount_cents, accepted_at + interval '1 ms' * (charged - 1) from seeded
union all
select 'pay-' || order_id, order_id, 'refund', amount_cents, accepted_at + interval '1 ms' * (dispatched - 1) from seeded
where outcome <> 'completed';

-- name: packages
insert into provider.packages (package_key, order_id, items, packed_at, recalled_at)
select 'package-' || order_id, order_id,
    jsonb_build_array(jsonb_build_object('sku', 'SEED', 'quantity', 1, 'unit_price_cents', amount_cents)),
    accepted_at + interval '1 ms' * (prepared - 1),
    case when outcome <> 'completed' then accepted_at + interval '1 ms' * (dispatched - 1) end
from seeded;

-- name: parcels
insert into provider.parcels (shipment_key, order_id, label_version, label_address, tracking, dispatched_at)
select 'parcel-' || order_id, order_id, 1,
    '{"street": "1 Main Street", "city": "Springfield", "state": "IL", "zip": "62701"}', 'TRK-' || n,
    accepted_at + interval '1 ms' * (dispatched - 1)
from seeded where outcome = 'completed';

-- name: events
insert into events (order_id, at, kind, state, step, attempt, outcome, started_at, duration_ms, worker, detail)
select s.order_id, s.accepted_at + interval '1 ms' * e.at_ms, e.kind, e.state::order_state, e.step, e.attempt,
    e.ended::attempt_outcome, s.accepted_at + interval '1 ms' * (e.at_ms - e.ms), e.ms, 'seed', e.detail
from seeded s cross join lateral (values
    (2, 'accepted', 'received', null, null, null, null, jsonb_build_object('amount_cents', s.amount_cents)),
    (received, 'attempt', 'received', 'receive', 1, 'ok', received - 8, null),
    (validated - 1, 'attempt', 'validated', 'validate', 1, 'ok', 7, null),
    (validated, 'state', 'in_review', 'review', null, null, null, null),
    (approved, 'state', 'approved', 'review', null, null, null, '{"reviewer": "auto"}'),
    (first_failed, 'attempt', 'approved', 'charge', 1, 'error', first_failed - approved - 4, '{"error": "seeded"}'),
    (charged, 'attempt', 'charged', 'charge', 2, 'ok', charged - first_failed - 4, null),
    (second_failed, 'attempt', 'charged', 'prepare', 1, 'timeout', second_failed - charged - 4, '{"error": "seeded"}'),
    (prepared, 'attempt', 'prepared', 'prepare', 2, 'ok', prepared - second_failed - 4, null),
    (third_failed - 1, 'attempt', 'prepared', 'dispatch', 1, 'error', third_failed - prepared - 4, '{"error": "seeded"}'),
    (case outcome when 'completed' then dispatched end, 'attempt', 'dispatched', 'dispatch', 2, 'ok', dispatched - third_failed - 4, null),
    (case outcome when 'cancelled' then third_failed end, 'signal', 'prepared', null, null, null, null,
        '{"signal": "cancel_order", "accepted": true, "reason": "seeded", "cancelled_by": "customer"}'),
    (case outcome when 'failed' then third_failed end, 'abort', 'prepared', null, null, null, null, '{"reason": "shipping_failed"}'),
    (case when outcome <> 'completed' then dispatched - 1 end, 'attempt', 'prepared', 'recall', 1, 'ok', 20, null),
    (case when outcome <> 'completed' then dispatched end, 'attempt', 'prepared', 'refund', 1, 'ok', 20, null),
    (total_ms, 'outcome', outcome::text, 'finish', null, null, null, jsonb_build_object('completion_ms', total_ms))
) e (at_ms, kind, state, step, attempt, ended, ms, detail)
where e.at_ms is not null;

-- name: runs
insert into runs (
    run_id, scenario, options, fault_profile, fault_seed, started_at, ended_at, completion_ms, late_orders, counted_orders
)
select run_id, 'mixed', '{"slo_seconds": 15, "slo_target": 0.99}', 'assignment', 1, min(accepted_at), max(accepted_at) + interval '30 s',
    array_agg(total_ms order by accepted_at), count(*) filter (where total_ms > 15000), count(*)
from seeded where run_id is not null group by run_id;

-- name: fault_changes
-- Their ids are smaller than that of every real change, so none of them becomes the active profile.
insert into fault_changes (change_id, at, profile, seed, rates) overriding system value
select (select least(min(change_id), 0) from fault_changes) - row_number() over (order by at desc), at, profile, 1, '{}'
from (
    select %(day)s::timestamptz + make_interval(hours => 3 + 6 * run) as at, 'assignment' as profile from generate_series(0, 3) run
    union all
    select %(day)s::timestamptz + make_interval(hours => 3 + 6 * run, mins => 10), 'none' from generate_series(0, 3) run
) changes;

-- name: delete_recent
-- Also subtracts them from the rollups. Where other orders remain in a row, its longest_ms may be up to 4.4 %% too high.
with gone_events as (
    delete from events where order_id like 'seed-recent-%%'
), gone as (
    delete from orders where order_id like 'seed-recent-%%' or order_id like 'seed-running-%%' returning *
), counted as (
    select grain_seconds, rollup_start(accepted_at, grain_seconds) as at, coalesce(run_id, '') as run_id, state,
        fault_profile, latency_bucket(completion_ms) as upto_ms, count(*) as orders,
        count(*) filter (where not within_limit) as late, sum(completion_ms) as completion_ms,
        sum(attempts) as attempts, sum(failed_attempts) as failed, sum(timed_out_attempts) as timed_out
    from gone cross join (values (60), (3600), (86400)) grains (grain_seconds)
    where finished_at is not null group by 1, 2, 3, 4, 5, 6
)
update latency_rollup r set orders = r.orders - c.orders, late = r.late - c.late,
    completion_ms = r.completion_ms - c.completion_ms, attempts = r.attempts - c.attempts,
    failed_attempts = r.failed_attempts - c.failed, timed_out_attempts = r.timed_out_attempts - c.timed_out
from counted c
where (r.grain_seconds, r.at, r.run_id, r.outcome, r.fault_profile, r.upto_ms)
    = (c.grain_seconds, c.at, c.run_id, c.state, c.fault_profile, c.upto_ms);

-- name: delete_empty_rollups
delete from latency_rollup where orders = 0;

-- name: random_order_ids
-- Random ids of generated orders of all days.
select order_id from orders tablesample bernoulli (least(100, 100.0 * 20 * %(orders)s / %(of)s))
where workflow_run_id = 'seeded' and order_id not like 'seed-recent-%%' and order_id not like 'seed-running-%%'
order by random() limit %(orders)s;

-- name: recent
-- Copies of finished orders, with outcomes between 50 minutes ago and 10 minutes from now.
insert into orders
select (jsonb_populate_record(model, jsonb_build_object(
    'order_id', 'seed-recent-' || n, 'payment_id', 'pay-seed-recent-' || n, 'run_id', null,
    'requested_at', (model).requested_at + moved, 'accepted_at', (model).accepted_at + moved,
    'deadline_at', (model).deadline_at + moved, 'limit_at', (model).limit_at + moved,
    'last_event_at', (model).last_event_at + moved,
    'finished_at', (model).finished_at + moved
))).*
from (
    select orders as model, row_number() over () as n from orders
    where order_id like 'seed-%%' and finished_at is not null limit %(orders)s
) models
cross join lateral (
    select now() - interval '50 minutes' + interval '1 hour' * (n::float8 / %(orders)s) - (model).finished_at as moved
) moving;

-- name: recent_events
-- Two attempts of each step of the newest of these orders; their times are evenly spaced.
insert into events (order_id, at, kind, state, step, attempt, outcome, worker)
select order_id, accepted_at + interval '1 ms' * (completion_ms * n / 13.0), case step when 'review' then 'state' else 'attempt' end,
    (case when step = 'review' and is_end then 'approved' when step = 'review' then 'in_review' else 'received' end)::order_state,
    step, case step when 'review' then null else 1 + is_end::int end,
    (case when step = 'review' then null when is_end then 'ok' else 'error' end)::attempt_outcome, 'seed'
from (select * from orders where order_id like 'seed-recent-%%' order by finished_at desc limit %(orders)s) recent
cross join lateral (
    select number * 2 + is_end::int - 1 as n, step, is_end
    from unnest(array['receive', 'validate', 'review', 'charge', 'prepare', 'dispatch']) with ordinality steps (step, number)
    cross join (values (false), (true)) ends (is_end)
) event;

-- name: running
-- Orders that run until they are deleted; every third is in manual review.
insert into orders (
    order_id, temporal_cluster_id, temporal_namespace, workflow_run_id, fingerprint, state, current_step, address,
    items, amount_cents, payment_id, review, requested_at, accepted_at, deadline_at, limit_at, review_until,
    last_event_at
)
select 'seed-running-' || n, 'seeded', 'default', 'seeded', md5(n::text),
    (case n %% 3 when 0 then 'in_review' else 'charged' end)::order_state,
    case n %% 3 when 0 then 'review' else 'prepare' end,
    '{"street": "1 Main Street", "city": "Springfield", "state": "IL", "zip": "62701"}',
    '[{"sku": "SEED", "quantity": 1, "unit_price_cents": 4200}]', 4200, 'pay-seed-running-' || n,
    case n %% 3 when 0 then 'manual' else 'auto' end, now(), now(), now() + interval '2 hours' + interval '1 s' * n,
    now() + interval '2 hours' + interval '1 s' * n, now() + interval '2 hours', now()
from generate_series(1, %(orders)s) n;

-- name: running_attempts
insert into step_attempts (order_id, step, attempt, started_at, worker)
select order_id, current_step, 1 + hashtext(order_id) & 7, now(), 'seed' from orders
where order_id like 'seed-running-%%' and state = 'charged';
