-- The latency report of the API, and the latency CSV.

-- name: latency_summary
-- percentile_disc returns the time of an existing order, without interpolation.
with selected as (
    select * from selected_orders(%(run_id)s, %(since)s, %(until)s)
), finished as (
    select * from selected where finished_at is not null
), parts as (
    select part, min(position) as position, round(avg(ms), 1) as mean,
        percentile_disc(array[0.5, 0.9, 0.95, 0.99, 1.0]) within group (order by ms) as percentiles
    from finished, lateral (values
        (1, 'end_to_end', end_to_end_ms), (2, 'completion', completion_ms), (3, 'ingress', ingress_ms),
        (4, 'receive', receive_ms), (5, 'validate', validate_ms), (6, 'review', review_ms), (7, 'charge', charge_ms),
        (8, 'prepare', prepare_ms), (9, 'dispatch', dispatch_ms), (10, 'compensate', compensate_ms),
        (11, 'waiting', waiting_ms)
    ) durations (position, part, ms)
    group by part
)
select
    count(*) filter (where finished_at is not null) as finished,
    count(*) filter (where not within_limit or (finished_at is null and limit_at < now())) as late,
    count(*) filter (where finished_at is null) as open,
    count(*) filter (where finished_at is null and limit_at < now()) as overdue,
    json_build_object('completed', count(*) filter (where state = 'completed'),
        'cancelled', count(*) filter (where state = 'cancelled'),
        'failed', count(*) filter (where state = 'failed')) as outcomes,
    (select json_object_agg(part, json_build_object('mean', mean, 'p50', percentiles[1],
        'p90', percentiles[2], 'p95', percentiles[3], 'p99', percentiles[4], 'max', percentiles[5]) order by position) from parts) as parts
from selected;

-- name: latency_csv
-- One row for each finished order, oldest first. The cells are formatted here, because COPY writes the CSV text.
-- A text that a spreadsheet would run as a formula is prefixed with an apostrophe. A negative integer is no formula.
select
    regexp_replace(o.order_id, '^(?=[-=+@\t\r])(?!-[0-9]+$)', '''') as order_id,
    regexp_replace(o.run_id, '^(?=[-=+@\t\r])(?!-[0-9]+$)', '''') as run_id,
    regexp_replace(r.scenario, '^(?=[-=+@\t\r])(?!-[0-9]+$)', '''') as scenario,
    o.state as outcome, o.abort_reason as reason,
    to_char(o.requested_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as requested_at,
    to_char(o.accepted_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as accepted_at,
    to_char(o.finished_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as finished_at,
    o.end_to_end_ms, o.completion_ms, o.within_limit::text as within_limit,
    o.ingress_ms, o.receive_ms, o.validate_ms, o.review_ms, o.charge_ms, o.prepare_ms, o.dispatch_ms,
    o.compensate_ms, o.waiting_ms, o.attempts, o.failed_attempts, o.timed_out_attempts
from selected_orders(%(run_id)s, %(since)s, %(until)s, %(outcome)s::order_state, %(fault_profile)s) o
left join runs r on r.run_id = o.run_id
where o.finished_at is not null
order by o.accepted_at, o.order_id;
