-- Writes to the books. Every statement is one transaction and may run twice.
--
-- Each first locks the order's row by moving updated_at on. That clock never stands still or steps
-- back, so it also dates the events the statement writes, and orders them without a sequence.

-- name: insert_order
with opened as (
    insert into orders (
        order_id, workflow_run_id, run_id, fingerprint, address, items, amount_cents, payment_id, review,
        requested_at, accepted_at, deadline_at, updated_at, current_step
    )
    values (
        %(order_id)s, %(workflow_run_id)s, %(run_id)s, %(fingerprint)s, %(address)s, %(items)s,
        %(amount_cents)s, %(payment_id)s, %(review)s,
        -- An order that claims to be due in the future or weeks ago would have no countable waiting time.
        greatest(least(%(requested_at)s, date_trunc('milliseconds', %(accepted_at)s)),
            date_trunc('milliseconds', %(accepted_at)s) - interval '20 days'),
        date_trunc('milliseconds', %(accepted_at)s), date_trunc('milliseconds', %(deadline_at)s),
        greatest(clock_timestamp(), %(accepted_at)s), 'receive'
    )
    on conflict (order_id) do nothing
    returning order_id, updated_at
), reserved as (
    insert into payments (payment_id, order_id, amount_cents)
    select %(payment_id)s, order_id, %(amount_cents)s from opened
    on conflict do nothing
)
insert into events (order_id, at, kind, state, worker, detail)
select order_id, updated_at, 'accepted', 'received', %(worker)s,
    jsonb_build_object('amount_cents', %(amount_cents)s::bigint, 'payment_id', %(payment_id)s::text,
        'review', %(review)s::text, 'run_id', %(run_id)s::text, 'address', %(address)s::jsonb)
from opened;

-- name: order_owner
select o.workflow_run_id, o.state, p.order_id as payment_owner
from orders o left join payments p on p.payment_id = o.payment_id
where o.order_id = %(order_id)s;

-- name: start_next_attempt
-- Begins the next attempt of a step, where the step is due, and in the same breath closes the one
-- before: with the outcome the caller saw (ended_*), or as lost when its worker never came back.
with o as (
    update orders set
        updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond'),
        current_step = %(step)s
    where order_id = %(order_id)s and case
        when %(due_state)s::order_state is null then abort_reason is not null and state < 'dispatched'
        else abort_reason is null and state = %(due_state)s::order_state end
    returning *
), began as (
    insert into step_attempts as mine (order_id, step, attempt, started_at, worker)
    select order_id, %(step)s, 1, updated_at, %(worker)s from o
    on conflict (order_id, step) do update set
        attempt = mine.attempt + 1, started_at = excluded.started_at, worker = excluded.worker
    where %(ended_attempt)s::int is null or mine.attempt = %(ended_attempt)s::int
    returning new.attempt, old.attempt as ended_attempt, old.started_at as ended_started_at,
        old.worker as ended_worker
), ended as (
    insert into events (order_id, at, kind, state, step, attempt, outcome, started_at, duration_ms, worker, detail)
    select o.order_id, o.updated_at, 'attempt', o.state, %(step)s, began.ended_attempt,
        coalesce(%(ended_outcome)s::attempt_outcome, 'lost'), began.ended_started_at,
        coalesce(%(ended_duration_ms)s::float8, extract(epoch from o.updated_at - began.ended_started_at) * 1000),
        began.ended_worker, %(ended_detail)s::jsonb
    from o, began where began.ended_started_at is not null
)
select began.attempt, o.address, o.address_version, o.amount_cents, o.payment_id, o.items, o.run_id,
    %(step)s <> 'refund' or exists (select from payments p where p.order_id = o.order_id) as owns_payment
from o left join began on true;

-- name: end_attempt
-- Closes an attempt after which no other follows here. Writes nothing once the order has its outcome.
with o as (
    update orders set updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
    where order_id = %(order_id)s and state < 'completed'
    returning order_id, updated_at, state
), closed as (
    update step_attempts s set started_at = null
    from o
    where s.order_id = o.order_id and s.step = %(step)s and s.attempt = %(attempt)s and s.started_at is not null
    returning old.started_at, s.worker
)
insert into events (order_id, at, kind, state, step, attempt, outcome, started_at, duration_ms, worker, detail)
select o.order_id, o.updated_at, 'attempt', o.state, %(step)s, %(attempt)s, %(outcome)s::attempt_outcome,
    closed.started_at, %(duration_ms)s, closed.worker, %(detail)s::jsonb
from o, closed;

-- name: complete_step
-- A forward step worked: its attempt, the order's new state and what the step changes in our books.
-- Returns a row where it took effect; none when the order was aborted, has moved on, or (dispatch)
-- carries another address than the one on the label.
with o as (
    update orders set
        updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
            + interval '1 microsecond' * (%(step)s = 'validate')::int,
        state = case when %(step)s = 'validate' then 'in_review' else %(new_state)s::order_state end,
        current_step = %(next_step)s
    where order_id = %(order_id)s and state = %(due_state)s::order_state and abort_reason is null
        and (%(label_version)s::int is null or address_version = %(label_version)s::int)
    returning *, updated_at - interval '1 microsecond' * (%(step)s = 'validate')::int as at
), closed as (
    update step_attempts s set started_at = null
    from o
    where s.order_id = o.order_id and s.step = %(step)s and s.attempt = %(attempt)s
    returning old.started_at, s.worker
), worked as (
    insert into events (order_id, at, kind, state, step, attempt, outcome, started_at, duration_ms, worker, detail)
    select o.order_id, o.at, 'attempt', %(new_state)s::order_state, %(step)s, %(attempt)s, 'ok',
        coalesce(closed.started_at, o.at - interval '1 millisecond' * %(duration_ms)s::float8),
        %(duration_ms)s, coalesce(closed.worker, %(worker)s), %(detail)s::jsonb
    from o left join closed on true
    -- An attempt is told once: receiving moves no state on, so a repetition gets as far as here.
    where closed.started_at is not null or %(step)s <> 'receive'
), into_review as (
    insert into events (order_id, at, kind, state, step, worker)
    select order_id, updated_at, 'state', 'in_review', 'review', %(worker)s from o where %(step)s = 'validate'
), charged as (
    update payments p set status = 'charged', charged_at = o.at
    from o
    where %(step)s = 'charge' and p.order_id = o.order_id and p.status = 'pending'
), packed as (
    insert into shipments (order_id, status, packed_at)
    select order_id, 'packed', at from o where %(step)s = 'prepare'
    on conflict (order_id) do nothing
), handed_over as (
    update shipments s set status = 'dispatched', tracking = %(detail)s::jsonb ->> 'tracking',
        label_address = o.address, label_version = o.address_version, dispatched_at = o.at
    from o
    where %(step)s = 'dispatch' and s.order_id = o.order_id
)
select order_id from o;

-- name: complete_compensation
-- A refund or recall worked. What had never been charged or packed is voided by the same call.
with o as (
    update orders set updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
    where order_id = %(order_id)s and abort_reason is not null and state < 'dispatched'
    returning order_id, updated_at as at, state
), closed as (
    update step_attempts s set started_at = null
    from o
    where s.order_id = o.order_id and s.step = %(step)s and s.attempt = %(attempt)s
    returning old.started_at, s.worker
), worked as (
    insert into events (order_id, at, kind, state, step, attempt, outcome, started_at, duration_ms, worker, detail)
    select o.order_id, o.at, 'attempt', o.state, %(step)s, %(attempt)s, 'ok',
        closed.started_at, %(duration_ms)s, closed.worker, %(detail)s::jsonb
    -- An attempt is told once, so not when it has been closed before.
    from o join closed on closed.started_at is not null
), paid_back as (
    update payments p set refunded_at = o.at,
        status = case when %(detail)s::jsonb ->> 'undone' = 'refunded' then 'refunded' else 'voided' end,
        -- The charge may have reached the provider although its answer never reached us.
        charged_at = case when %(detail)s::jsonb ->> 'undone' = 'refunded' then coalesce(p.charged_at, o.at) end
    from o
    where %(step)s = 'refund' and p.order_id = o.order_id and p.status in ('pending', 'charged')
), taken_back as (
    update shipments s set status = 'recalled', recalled_at = o.at
    from o
    where %(step)s = 'recall' and s.order_id = o.order_id and s.recalled_at is null
)
select order_id from o;

-- name: abort_order
-- The first reason that gets here turns the order back; after dispatch none does, and a reviewer's
-- only before the approval.
with o as (
    update orders set
        updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond'),
        abort_reason = %(reason)s, aborted_by = %(by)s,
        aborted_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond'),
        applied_request_ids = applied_request_ids || %(request_id)s::text
    where order_id = %(order_id)s and state < %(before_state)s::order_state and abort_reason is null
    returning order_id, updated_at, state
), told as (
    insert into events (order_id, at, kind, state, worker, detail)
    select order_id, updated_at, %(kind)s, state, %(worker)s, %(detail)s::jsonb from o
)
select state from o;

-- name: approve_order
with o as (
    update orders set
        updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond'),
        state = 'approved', reviewer = %(reviewer)s, current_step = 'charge',
        applied_request_ids = applied_request_ids || %(request_id)s::text
    where order_id = %(order_id)s and state = 'in_review' and abort_reason is null
    returning order_id, updated_at, state
), told as (
    insert into events (order_id, at, kind, state, step, worker, detail)
    select order_id, updated_at, %(kind)s, state, 'review', %(worker)s, %(detail)s::jsonb from o
)
select state from o;

-- name: change_address
with o as (
    update orders set
        updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond'),
        address = %(address)s, address_version = address_version + 1,
        applied_request_ids = applied_request_ids || %(request_id)s::text
    where order_id = %(order_id)s and state < 'dispatched' and abort_reason is null
        and not coalesce(%(request_id)s::text = any(applied_request_ids), false)
    returning order_id, updated_at, state, address_version
), told as (
    insert into events (order_id, at, kind, state, worker, detail)
    select order_id, updated_at, 'signal', state, %(worker)s,
        %(detail)s::jsonb || jsonb_build_object('address_version', address_version) from o
)
select state from o;

-- name: note_signal
-- A request that changed nothing at once: one that came too late, or an approval before the review.
with o as (
    update orders set
        updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond'),
        applied_request_ids = array_remove(applied_request_ids || %(request_id)s::text, null)
    where order_id = %(order_id)s and state < 'completed'
        and not coalesce(%(request_id)s::text = any(applied_request_ids), false)
    returning order_id, updated_at, state
)
insert into events (order_id, at, kind, state, worker, detail)
select order_id, updated_at, 'signal', state, %(worker)s, %(detail)s::jsonb from o;

-- name: standing
select o.state, o.abort_reason, o.address_version, o.completion_ms, o.applied_request_ids,
    round(extract(epoch from o.deadline_at - o.accepted_at) * 1000)::int as limit_ms,
    p.order_id = o.order_id as owns_payment,
    exists (select from step_attempts s where s.order_id = o.order_id and s.step = 'charge') as charge_tried,
    exists (select from step_attempts s where s.order_id = o.order_id and s.step in ('prepare', 'dispatch'))
        as shipping_tried
from orders o left join payments p on p.payment_id = o.payment_id
where o.order_id = %(order_id)s;

-- name: finish_order
-- Writes the outcome, and where the order's time went, from its events. StepRunner still open belong to
-- workers that never came back. Does nothing while money or a package is still out there, nor when it
-- had to wait for another statement, whose events it would not see: then it must be run again.
--
-- Each part is rounded down to whole milliseconds, and what is in none of them is waiting: so the parts
-- sum exactly to completion_ms. Time after an abort belongs to the compensation or to waiting, even
-- where a forward attempt was still in the air; recall and refund may overlap and count once.
with target as (
    select order_id, state, aborted_at, accepted_at
    from orders
    where order_id = %(order_id)s
      and case when %(outcome)s = 'completed' then state = 'dispatched'
          else state < 'dispatched' and abort_reason is not null
              and not exists (
                  select from payments p join step_attempts s using (order_id)
                  where p.order_id = %(order_id)s and p.status in ('pending', 'charged') and s.step = 'charge'
              )
              and not exists (select from shipments where order_id = %(order_id)s and status = 'packed') end
      and updated_at = (select seen.updated_at from orders seen where seen.order_id = %(order_id)s)
    for no key update
), calls as (
    select e.step, e.outcome, e.started_at, e.started_at + interval '1 millisecond' * e.duration_ms as ended_at,
        e.step in ('recall', 'refund') as compensating, t.aborted_at
    from target t join events e on e.order_id = t.order_id and e.at >= t.accepted_at
    where e.kind = 'attempt'
), forward as (
    select step, floor(sum(extract(epoch from upper(span) - lower(span)) * 1000))::int as ms
    from (
        select step, unnest(range_agg(tstzrange(started_at, least(ended_at, aborted_at)))) as span
        from calls where outcome <> 'lost' and not compensating and started_at < coalesce(aborted_at, 'infinity')
        group by step
    ) spans
    group by step
), undoing as (
    select floor(coalesce(sum(extract(epoch from upper(span) - lower(span)) * 1000), 0))::int as ms
    from (
        select unnest(range_agg(tstzrange(started_at, ended_at))) as span
        from calls where outcome <> 'lost' and compensating
    ) spans
), review as (
    select floor(coalesce(extract(epoch from
        coalesce(min(e.at) filter (where e.state = 'approved'), t.aborted_at)
        - min(e.at) filter (where e.kind = 'state' and e.state = 'in_review')) * 1000, 0))::int as ms
    from target t join events e on e.order_id = t.order_id and e.at >= t.accepted_at
    group by t.aborted_at
), open_ones as (
    delete from step_attempts s using target t where s.order_id = t.order_id
    returning s.step, s.attempt, s.started_at, s.worker
), lost as (
    select *, row_number() over (order by started_at) as n from open_ones where started_at is not null
), tally as (
    select count(*) as attempts,
        count(*) filter (where outcome <> 'ok') as failed,
        count(*) filter (where outcome = 'timeout') as timed_out
    from calls
), o as (
    update orders set
        state = %(outcome)s::order_state,
        current_step = null,
        updated_at = now.at,
        finished_at = date_trunc('milliseconds', now.at + interval '999 microseconds'),
        completion_ms = total.ms,
        within_limit = date_trunc('milliseconds', now.at + interval '999 microseconds') <= deadline_at,
        ingress_ms = first.ms,
        end_to_end_ms = first.ms + total.ms,
        receive_ms = part.receive, validate_ms = part.validate, review_ms = review.ms,
        charge_ms = part.charge, prepare_ms = part.prepare, dispatch_ms = part.dispatch,
        compensate_ms = undoing.ms,
        waiting_ms = total.ms - undoing.ms - review.ms
            - part.receive - part.validate - part.charge - part.prepare - part.dispatch,
        attempts = tally.attempts + (select count(*) from lost),
        failed_attempts = tally.failed + (select count(*) from lost),
        timed_out_attempts = tally.timed_out
    from target, tally, undoing, review,
        lateral (
            select coalesce(sum(ms) filter (where step = 'receive'), 0) as receive,
                coalesce(sum(ms) filter (where step = 'validate'), 0) as validate,
                coalesce(sum(ms) filter (where step = 'charge'), 0) as charge,
                coalesce(sum(ms) filter (where step = 'prepare'), 0) as prepare,
                coalesce(sum(ms) filter (where step = 'dispatch'), 0) as dispatch
            from forward
        ) part,
        lateral (
            select greatest(clock_timestamp(), w.updated_at + interval '1 microsecond')
                + interval '1 microsecond' * (select count(*) from lost) as at
            from orders w where w.order_id = target.order_id
        ) now,
        lateral (
            select round(extract(epoch from date_trunc('milliseconds', now.at + interval '999 microseconds')
                - target.accepted_at) * 1000)::int as ms
        ) total,
        lateral (
            select floor(extract(epoch from target.accepted_at - w.requested_at) * 1000)::int as ms
            from orders w where w.order_id = target.order_id
        ) first
    where orders.order_id = target.order_id
    returning orders.*
), told as (
    insert into events (order_id, at, kind, state, step, attempt, outcome, started_at, duration_ms, worker)
    select o.order_id, o.updated_at - interval '1 microsecond' * n, 'attempt', target.state, lost.step, lost.attempt,
        'lost', lost.started_at, extract(epoch from o.updated_at - lost.started_at) * 1000, lost.worker
    from o, target, lost
), ended as (
    insert into events (order_id, at, kind, state, step, worker, detail)
    select order_id, updated_at, 'outcome', state, 'finish', %(worker)s,
        jsonb_build_object('reason', abort_reason, 'completion_ms', completion_ms)
    from o
)
select state, abort_reason, completion_ms from o;
