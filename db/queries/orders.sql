-- Writes to the order tables, and the reads they need. Each statement is one transaction and is safe to repeat.
--
-- Each write to an existing order locks its row and advances last_event_at. This timestamp strictly increases, so it
-- is the time of the statement's events, and orders them without a sequence.
--
-- The states in the conditions are parameters from db/transitions.py.
--
-- An attempt is fenced by its number: once a later attempt of the step was started, a statement for the earlier one
-- changes at most last_event_at. The lock of the order's row is taken before that of the attempt's row.

-- name: insert_order
-- Inserts nothing if the order exists, or if it was placed for another order database.
with new_order as (
    insert into orders (
        order_id, temporal_cluster_id, temporal_namespace, workflow_run_id, run_id, fingerprint, address, items,
        amount_cents, currency, payment_id, review, execution, requested_at, accepted_at, deadline_at, limit_at,
        review_until, last_event_at, current_step,
        applied_request_ids
    )
    select
        %(order_id)s, %(temporal_cluster_id)s, %(temporal_namespace)s, %(workflow_run_id)s, %(run_id)s,
        %(fingerprint)s, %(address)s, %(items)s, %(amount_cents)s, %(currency)s, %(payment_id)s, %(review)s,
        %(execution)s,
        -- ingress_ms, accepted_at - requested_at, must not be negative. psycopg cannot read a time that is before the
        -- year 1 in the time zone of its session.
        greatest(least(%(requested_at)s, date_trunc('milliseconds', %(accepted_at)s)), timestamptz '0001-01-02 00:00+00'),
        date_trunc('milliseconds', %(accepted_at)s), date_trunc('milliseconds', %(deadline_at)s),
        coalesce(
            (select date_trunc('milliseconds', %(accepted_at)s) + make_interval(secs => (options ->> 'slo_seconds')::float8)
                from runs where run_id = %(run_id)s),
            date_trunc('milliseconds', %(deadline_at)s)),
        %(review_until)s,
        greatest(clock_timestamp(), %(accepted_at)s), 'receive',
        array_remove(array[%(start_request_id)s::text], null)
    from database_identity
    where %(database_id)s::uuid is null or database_id = %(database_id)s::uuid
    on conflict (order_id) do nothing
    returning order_id, last_event_at
), payment as (
    insert into payments (payment_id, order_id, amount_cents, currency, method)
    select %(payment_id)s, order_id, %(amount_cents)s, %(currency)s, %(payment_method)s from new_order
    on conflict do nothing
)
insert into events (order_id, at, kind, state, worker, detail)
select order_id, last_event_at, 'accepted', 'received', %(worker)s,
    jsonb_build_object('amount_cents', %(amount_cents)s::bigint, 'currency', %(currency)s::text, 'payment_id', %(payment_id)s::text,
        'review', %(review)s::text, 'run_id', %(run_id)s::text, 'address', %(address)s::jsonb)
from new_order;

-- name: workflow_run
select workflow_run_id from orders where order_id = %(order_id)s;

-- name: start_next_attempt
-- Starts the next attempt of a step if the step is due, and closes the previous one: with the outcome from the caller
-- (ended_*), or as lost if its worker died. due_state is null for a compensation. Returns no row if the step is not
-- due, and a null attempt if another worker has started one.
with locked_order as (
    update orders set
        last_event_at = greatest(clock_timestamp(), last_event_at + interval '1 microsecond'),
        current_step = %(step)s
    where order_id = %(order_id)s and case
        when %(due_state)s::order_state is null
            then abort_reason is not null and state < %(no_abort_from)s::order_state
        else abort_reason is null and state = %(due_state)s::order_state and current_step = %(step)s end
    returning *
), attempt as (
    insert into step_attempts as previous (order_id, step, attempt, started_at, worker)
    select order_id, %(step)s, 1, last_event_at, %(worker)s from locked_order
    on conflict (order_id, step) do update set
        attempt = previous.attempt + 1, started_at = excluded.started_at, worker = excluded.worker,
        ended_started_at = previous.started_at, ended_worker = previous.worker,
        omitted_attempts = previous.omitted_attempts
            + (previous.started_at is not null and not attempt_has_event(previous.attempt))::int,
        omitted_timeouts = previous.omitted_timeouts
            + (previous.started_at is not null and not attempt_has_event(previous.attempt)
                and coalesce(%(ended_outcome)s = 'timeout', false))::int
    where %(ended_attempt)s::int is null or previous.attempt = %(ended_attempt)s::int
    returning attempt, ended_started_at, ended_worker
), attempt_event as (
    insert into events (order_id, at, kind, state, step, attempt, outcome, started_at, duration_ms, worker, detail)
    select o.order_id, o.last_event_at, 'attempt', o.state, %(step)s, a.attempt - 1,
        coalesce(%(ended_outcome)s::attempt_outcome, 'lost'), a.ended_started_at,
        coalesce(%(ended_duration_ms)s::float8, extract(epoch from o.last_event_at - a.ended_started_at) * 1000),
        a.ended_worker, %(ended_detail)s::jsonb
    from locked_order o, attempt a where a.ended_started_at is not null and attempt_has_event(a.attempt - 1)
)
select a.attempt, o.address, o.address_version, o.amount_cents, o.currency, o.payment_id, o.items,
    o.last_event_at - o.aborted_at as since_abort, p.method as payment_method, p.reference as payment_reference,
    %(step)s not in ('validate', 'refund') or p.order_id is not null as owns_payment
from locked_order o left join attempt a on true
left join payments p on p.order_id = o.order_id and %(step)s in ('validate', 'charge', 'refund');

-- name: end_attempt
-- Closes an attempt without starting the next one. Has no effect when the order is finished. If Temporal retries the
-- step (is_retried), the attempt may have no event.
with locked_order as (
    update orders set last_event_at = greatest(clock_timestamp(), last_event_at + interval '1 microsecond')
    where order_id = %(order_id)s and state < 'completed'
    returning order_id, last_event_at, state
), attempt as (
    update step_attempts a set started_at = null, ended_started_at = a.started_at,
        omitted_attempts = omitted_attempts + (%(is_retried)s and not attempt_has_event(%(attempt)s))::int,
        omitted_timeouts = omitted_timeouts
            + (%(is_retried)s and not attempt_has_event(%(attempt)s) and %(outcome)s = 'timeout')::int
    from locked_order o
    where a.order_id = o.order_id and a.step = %(step)s and a.attempt = %(attempt)s and a.started_at is not null
    returning a.ended_started_at as started_at, a.worker
)
insert into events (order_id, at, kind, state, step, attempt, outcome, started_at, duration_ms, worker, detail)
select o.order_id, o.last_event_at, 'attempt', o.state, %(step)s, %(attempt)s, %(outcome)s::attempt_outcome,
    a.started_at, %(duration_ms)s, a.worker, %(detail)s::jsonb
from locked_order o, attempt a where not %(is_retried)s or attempt_has_event(%(attempt)s);

-- name: complete_step
-- Completes a forward step: closes its attempt and advances the order's state. Returns no row, and has no effect, when
-- the attempt was closed, the step is not due any more, or the label's address is outdated.
--
-- A step with a passed_state writes two events, one microsecond apart.
with locked_order as (
    select order_id from orders
    where order_id = %(order_id)s and abort_reason is null
        and state = %(due_state)s::order_state and current_step = %(step)s
        and (%(label_version)s::int is null or address_version = %(label_version)s::int)
    for no key update
), attempt as (
    update step_attempts a set started_at = null, ended_started_at = a.started_at
    from locked_order o
    where a.order_id = o.order_id and a.step = %(step)s and a.attempt = %(attempt)s and a.started_at is not null
    returning a.order_id, a.ended_started_at as started_at, a.worker
), completed_order as (
    update orders o set
        last_event_at = greatest(clock_timestamp(), o.last_event_at + interval '1 microsecond')
            + interval '1 microsecond' * (%(passed_state)s::order_state is not null)::int,
        state = %(state_after)s::order_state,
        current_step = %(next_step)s
    from attempt a
    where o.order_id = a.order_id
    returning o.order_id, o.state, o.last_event_at, o.address, o.address_version, a.started_at, a.worker,
        o.last_event_at - interval '1 microsecond' * (%(passed_state)s::order_state is not null)::int as completed_at
), step_event as (
    insert into events (order_id, at, kind, state, step, attempt, outcome, started_at, duration_ms, worker, detail)
    select order_id, completed_at, 'attempt', coalesce(%(passed_state)s::order_state, state), %(step)s, %(attempt)s,
        'ok', started_at, %(duration_ms)s, worker, %(detail)s::jsonb
    from completed_order
), state_event as (
    insert into events (order_id, at, kind, state, step, worker)
    select order_id, last_event_at, 'state', state, %(next_step)s, %(worker)s
    from completed_order where %(passed_state)s::order_state is not null
), payment as (
    update payments p set reference = %(detail)s::jsonb ->> 'payment_reference'
    from completed_order o
    where %(step)s = 'validate' and %(detail)s::jsonb ? 'payment_reference' and p.order_id = o.order_id
), charge as (
    update payments p set status = 'charged', charged_at = o.completed_at
    from completed_order o
    where %(step)s = 'charge' and p.order_id = o.order_id and p.status = 'pending'
), package as (
    insert into shipments (order_id, status, packed_at)
    select order_id, 'packed', completed_at from completed_order where %(step)s = 'prepare'
    on conflict (order_id) do nothing
), dispatch as (
    update shipments s set status = 'dispatched', tracking = %(detail)s::jsonb ->> 'tracking',
        label_address = o.address, label_version = o.address_version, dispatched_at = o.completed_at
    from completed_order o
    where %(step)s = 'dispatch' and s.order_id = o.order_id
)
select order_id from completed_order;

-- name: complete_compensation
-- Completes a refund or recall. A payment without a charge becomes voided. Returns no row when a later attempt was
-- started or the order cannot be compensated; then it changes at most last_event_at.
with locked_order as (
    update orders set last_event_at = greatest(clock_timestamp(), last_event_at + interval '1 microsecond')
    where order_id = %(order_id)s and abort_reason is not null and state < %(no_abort_from)s::order_state
    returning order_id, last_event_at as at, state
), attempt as (
    update step_attempts a set started_at = null, ended_started_at = a.started_at
    from locked_order o
    where a.order_id = o.order_id and a.step = %(step)s and a.attempt = %(attempt)s and a.started_at is not null
    returning o.order_id, o.at, o.state, a.ended_started_at as started_at, a.worker
), attempt_event as (
    insert into events (order_id, at, kind, state, step, attempt, outcome, started_at, duration_ms, worker, detail)
    select order_id, at, 'attempt', state, %(step)s, %(attempt)s, 'ok', started_at, %(duration_ms)s, worker,
        %(detail)s::jsonb
    from attempt
), refund as (
    update payments p set refunded_at = a.at,
        status = case when %(detail)s::jsonb ->> 'refund_outcome' = 'refunded' then 'refunded' else 'voided' end,
        -- The provider may have charged although its response was lost.
        charged_at = case
            when %(detail)s::jsonb ->> 'refund_outcome' = 'refunded' then coalesce(p.charged_at, a.at) end
    from attempt a
    where %(step)s = 'refund' and p.order_id = a.order_id and p.status in ('pending', 'charged')
), recall as (
    update shipments s set status = 'recalled', recalled_at = a.at
    from attempt a
    where %(step)s = 'recall' and s.order_id = a.order_id and s.recalled_at is null
)
select order_id from attempt
union all
-- The statement is repeated: an earlier execution has closed the attempt.
select o.order_id from locked_order o join step_attempts a using (order_id)
where a.step = %(step)s and a.attempt = %(attempt)s and a.started_at is null;

-- name: abort_order
-- Only the first abort takes effect; its reason decides the outcome.
with locked_order as (
    update orders set
        last_event_at = greatest(clock_timestamp(), last_event_at + interval '1 microsecond'),
        abort_reason = %(reason)s, aborted_by = %(by)s,
        aborted_at = greatest(clock_timestamp(), last_event_at + interval '1 microsecond'),
        applied_request_ids = applied_request_ids || %(request_id)s::text
    where order_id = %(order_id)s and state < %(before_state)s::order_state and abort_reason is null
        and (%(address_version)s::int is null or address_version = %(address_version)s::int)
    returning order_id, last_event_at, state
), abort_event as (
    insert into events (order_id, at, kind, state, worker, detail)
    select order_id, last_event_at, %(kind)s, state, %(worker)s, %(detail)s::jsonb from locked_order
)
select state from locked_order;

-- name: approve_order
with locked_order as (
    update orders set
        last_event_at = greatest(clock_timestamp(), last_event_at + interval '1 microsecond'),
        state = %(state_after)s::order_state, reviewer = %(reviewer)s, current_step = %(next_step)s,
        applied_request_ids = applied_request_ids || %(request_id)s::text
    where order_id = %(order_id)s and state = %(due_state)s::order_state and abort_reason is null
    returning order_id, last_event_at, state
), approval_event as (
    insert into events (order_id, at, kind, state, step, worker, detail)
    select order_id, last_event_at, %(kind)s, state, 'review', %(worker)s, %(detail)s::jsonb from locked_order
)
select state from locked_order;

-- name: change_address
with locked_order as (
    update orders set
        last_event_at = greatest(clock_timestamp(), last_event_at + interval '1 microsecond'),
        address = %(address)s,
        -- A change to the same address keeps the version, so that the parcel's label stays valid.
        address_version = address_version + (address <> %(address)s)::int,
        applied_request_ids = applied_request_ids || %(request_id)s::text
    where order_id = %(order_id)s and state < %(no_abort_from)s::order_state and abort_reason is null
        and (%(address_version)s::int is null or address_version = %(address_version)s)
        and not coalesce(%(request_id)s::text = any(applied_request_ids), false)
    returning order_id, last_event_at, state, address_version
), address_event as (
    insert into events (order_id, at, kind, state, worker, detail)
    select order_id, last_event_at, 'signal', state, %(worker)s,
        %(detail)s::jsonb || jsonb_build_object('address_version', address_version) from locked_order
)
select state from locked_order;

-- name: record_request
-- Records a request that does not change the order: a late one, or an approval before the review. Records nothing when
-- the order is finished or has applied a request with this id.
with locked_order as (
    update orders set
        last_event_at = greatest(clock_timestamp(), last_event_at + interval '1 microsecond'),
        applied_request_ids = array_remove(applied_request_ids || %(request_id)s::text, null)
    where order_id = %(order_id)s and state < 'completed'
        and not coalesce(%(request_id)s::text = any(applied_request_ids), false)
    returning order_id, last_event_at, state
)
insert into events (order_id, at, kind, state, worker, detail)
select order_id, last_event_at, 'signal', state, %(worker)s, %(detail)s::jsonb from locked_order;

-- name: order_snapshot
select o.state, o.current_step, o.abort_reason, o.completion_ms, o.applied_request_ids, o.address_version,
    round(extract(epoch from o.deadline_at - o.accepted_at) * 1000)::int as limit_ms,
    array(select step from step_attempts s where s.order_id = o.order_id) as attempted_steps
from orders o
where o.order_id = %(order_id)s;

-- name: finish_order
-- Writes the outcome, and the order's time breakdown, which it computes from the events. Attempts that are still open
-- are closed as lost: their workers died. Has no effect while a payment or a package is not compensated.
--
-- The statement does not see the events of a concurrent one that it had to wait for. Then it has no effect, and the
-- caller repeats it.
--
-- Each part is rounded down to whole milliseconds, and waiting_ms is the remainder, so the parts sum exactly to
-- completion_ms. Time after an abort counts as compensation or waiting, even while a forward attempt is still running.
-- Time in which recall and refund overlap counts once.
with target as (
    select order_id, state, aborted_at, accepted_at
    from orders
    where order_id = %(order_id)s
      and case when %(outcome)s = 'completed' then state = %(no_abort_from)s::order_state
          else state < %(no_abort_from)s::order_state and abort_reason is not null
              and not exists (
                  select from payments p join step_attempts s using (order_id)
                  where p.order_id = %(order_id)s and p.status in ('pending', 'charged') and s.step = 'charge'
              )
              and not exists (select from shipments where order_id = %(order_id)s and status = 'packed') end
      and last_event_at = (select snapshot.last_event_at from orders snapshot where snapshot.order_id = %(order_id)s)
    for no key update
), calls as (
    select e.step, e.outcome, e.started_at, e.started_at + interval '1 millisecond' * e.duration_ms as ended_at,
        e.step in ('recall', 'refund') as is_compensation, t.aborted_at
    from target t join events e on e.order_id = t.order_id
    where e.kind = 'attempt'
), forward as (
    select step, floor(sum(extract(epoch from upper(span) - lower(span)) * 1000))::bigint as ms
    from (
        select step, unnest(range_agg(tstzrange(started_at, least(ended_at, aborted_at)))) as span
        from calls where outcome <> 'lost' and not is_compensation and started_at < coalesce(aborted_at, 'infinity')
        group by step
    ) spans
    group by step
), compensation as (
    select floor(coalesce(sum(extract(epoch from upper(span) - lower(span)) * 1000), 0))::bigint as ms
    from (
        select unnest(range_agg(tstzrange(started_at, ended_at))) as span
        from calls where outcome <> 'lost' and is_compensation
    ) spans
), review as (
    select floor(coalesce(extract(epoch from
        coalesce(min(e.at) filter (where e.state = 'approved'), t.aborted_at)
        - min(e.at) filter (where e.kind = 'state' and e.state = 'in_review')) * 1000, 0))::bigint as ms
    from target t join events e on e.order_id = t.order_id
    group by t.aborted_at
), deleted_attempt as (
    delete from step_attempts s using target t where s.order_id = t.order_id
    returning s.step, s.attempt, s.started_at, s.worker, s.omitted_attempts, s.omitted_timeouts
), omitted as (
    select coalesce(sum(omitted_attempts), 0) as attempts, coalesce(sum(omitted_timeouts), 0) as timeouts,
        jsonb_object_agg(step, omitted_attempts) filter (where omitted_attempts > 0) as by_step
    from deleted_attempt
), lost as (
    select *, row_number() over (order by started_at) as n from deleted_attempt where started_at is not null
), tally as (
    select count(*) as attempts,
        count(*) filter (where outcome <> 'ok') as failed,
        count(*) filter (where outcome = 'timeout') as timed_out
    from calls
), finished_order as (
    update orders set
        state = %(outcome)s::order_state,
        current_step = null,
        last_event_at = ended.at,
        finished_at = date_trunc('milliseconds', ended.at + interval '999 microseconds'),
        completion_ms = total.ms,
        within_limit = date_trunc('milliseconds', ended.at + interval '999 microseconds') <= limit_at,
        step_ends_ms = step_ends.ms,
        ingress_ms = ingress.ms,
        end_to_end_ms = ingress.ms + total.ms,
        receive_ms = step_ms.receive, validate_ms = step_ms.validate, review_ms = review.ms,
        charge_ms = step_ms.charge, prepare_ms = step_ms.prepare, dispatch_ms = step_ms.dispatch,
        compensate_ms = compensation.ms,
        waiting_ms = total.ms - compensation.ms - review.ms
            - step_ms.receive - step_ms.validate - step_ms.charge - step_ms.prepare - step_ms.dispatch,
        attempts = tally.attempts + omitted.attempts + (select count(*) from lost),
        failed_attempts = tally.failed + omitted.attempts + (select count(*) from lost),
        timed_out_attempts = tally.timed_out + omitted.timeouts
    from target, tally, omitted, compensation, review,
        lateral (
            select coalesce(max(ms) filter (where step = 'receive'), 0) as receive,
                coalesce(max(ms) filter (where step = 'validate'), 0) as validate,
                coalesce(max(ms) filter (where step = 'charge'), 0) as charge,
                coalesce(max(ms) filter (where step = 'prepare'), 0) as prepare,
                coalesce(max(ms) filter (where step = 'dispatch'), 0) as dispatch
            from forward
        ) step_ms,
        lateral (
            select array[receive_ms, validate_ms, review_ms, charge_ms, prepare_ms] as ms
            from step_ends_ms(target.order_id, target.accepted_at)
        ) step_ends,
        lateral (
            select greatest(clock_timestamp(), w.last_event_at + interval '1 microsecond')
                + interval '1 microsecond' * (select count(*) from lost) as at
            from orders w where w.order_id = target.order_id
        ) ended,
        lateral (
            select round(extract(epoch from date_trunc('milliseconds', ended.at + interval '999 microseconds')
                - target.accepted_at) * 1000)::bigint as ms
        ) total,
        lateral (
            select floor(extract(epoch from target.accepted_at - w.requested_at) * 1000)::bigint as ms
            from orders w where w.order_id = target.order_id
        ) ingress
    where orders.order_id = target.order_id
    returning orders.*
), lost_event as (
    insert into events (order_id, at, kind, state, step, attempt, outcome, started_at, duration_ms, worker)
    select o.order_id, o.last_event_at - interval '1 microsecond' * n, 'attempt', target.state, lost.step, lost.attempt,
        'lost', lost.started_at, extract(epoch from o.last_event_at - lost.started_at) * 1000, lost.worker
    from finished_order o, target, lost
), outcome_event as (
    insert into events (order_id, at, kind, state, step, worker, detail)
    select order_id, last_event_at, 'outcome', state, 'finish', %(worker)s,
        jsonb_build_object('reason', abort_reason, 'completion_ms', completion_ms)
            || case when omitted.by_step is null then '{}'
                else jsonb_build_object('omitted_attempts', omitted.by_step) end
    from finished_order, omitted
)
select state, abort_reason, completion_ms from finished_order;
