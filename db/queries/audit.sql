-- The invariants. Each query returns the orders that violate one, with a finding and its evidence.
--
-- Nearly all orders are correct. So each query collects evidence only for the violations, and the invariants that
-- read only an order's events (1, 2, 7) check only the orders from the query `candidates`.
--
-- `finished_orders` are those of one run or of all runs. Open orders are counted but not checked, because their rows
-- and the provider's may differ temporarily. Invariants about events (1, 2, 6, 7, 9) skip orders whose events were
-- deleted by retention.

-- name: scope
select count(*) filter (where state >= 'completed') as finished,
    count(*) filter (where state >= 'completed' and (temporal_cluster_id, temporal_namespace)
        is distinct from (%(cluster_id)s::text, %(namespace)s::text)) as finished_elsewhere,
    count(*) filter (where not within_limit or (state < 'completed' and limit_at < now())) as late,
    count(*) filter (where state < 'completed' and limit_at < now()) as overdue,
    coalesce(array_agg(order_id order by accepted_at) filter (where state < 'completed'), '{}') as open_orders,
    min(accepted_at) as since, max(finished_at) as last_finished_at, now() as read_at,
    count(*) filter (where state >= 'completed' and accepted_at < (select events_since())) as without_events,
    nullif(events_since(), '-infinity') as events_since,
    (select started_at from runs where run_id = %(run_id)s) as run_started_at
from orders
where %(run_id)s::text is null or run_id = %(run_id)s;

-- name: candidates
-- The orders that may violate invariant 1, 2 or 7, from one scan of all events without a sort. Each other order has
-- exactly one acceptance, its first event, and exactly one outcome, its last event. Between them it passed the states
-- in order, without skipping one; a completed order passed all of them. An order with a tenth attempt of a step is
-- a candidate too.
with finished_orders as (
    select * from orders where state >= 'completed' and accepted_at >= (select events_since())
        and (%(run_id)s::text is null or run_id = %(run_id)s)
), summary as (
    select o.order_id, o.state, min(e.at) as first_at, max(e.at) as last_at,
        count(*) filter (where e.kind = 'accepted') as acceptances, min(e.at) filter (where e.kind = 'accepted') as accepted_at,
        count(*) filter (where e.kind = 'outcome' and e.state = o.state) as outcomes,
        min(e.at) filter (where e.kind = 'outcome') as ended_at,
        count(*) filter (where e.state >= 'completed') as ends,
        bool_or(e.started_at > e.at) as is_backwards,
        count(*) filter (where e.kind = 'attempt') as attempts,
        -- A bit for each of the first nine attempts of each of the seven gateway steps.
        bit_or(1::bigint << (7 * e.attempt - 8 + array_position(%(gateway_steps)s::text[], e.step)))
            filter (where e.kind = 'attempt' and e.attempt <= 9) as attempt_bits,
        min(e.at) filter (where e.state = 'received') as first_received, max(e.at) filter (where e.state = 'received') as last_received,
        min(e.at) filter (where e.state = 'validated') as first_validated, max(e.at) filter (where e.state = 'validated') as last_validated,
        min(e.at) filter (where e.state = 'in_review') as first_in_review, max(e.at) filter (where e.state = 'in_review') as last_in_review,
        min(e.at) filter (where e.state = 'approved') as first_approved, max(e.at) filter (where e.state = 'approved') as last_approved,
        min(e.at) filter (where e.state = 'charged') as first_charged, max(e.at) filter (where e.state = 'charged') as last_charged,
        min(e.at) filter (where e.state = 'prepared') as first_prepared, max(e.at) filter (where e.state = 'prepared') as last_prepared,
        min(e.at) filter (where e.state = 'dispatched') as first_dispatched, max(e.at) filter (where e.state = 'dispatched') as last_dispatched
    from finished_orders o left join events e on e.order_id = o.order_id
    group by o.order_id, o.state
)
select order_id from summary
where (
    acceptances = 1 and accepted_at = first_at
    and outcomes = 1 and ends = 1 and ended_at = last_at
    and is_backwards is not true
    -- Each attempt has one event, and each attempt except the first follows another one.
    and attempts = coalesce(bit_count(attempt_bits::bit(64)), 0)
    and coalesce(attempt_bits & ~(attempt_bits << 7 | 127) = 0, true)
    and first_received is not null
    and coalesce(first_validated > last_received, first_validated is null)
    and coalesce(first_in_review > last_validated, first_in_review is null)
    and coalesce(first_approved > last_in_review, first_approved is null)
    and coalesce(first_charged > last_approved, first_charged is null)
    and coalesce(first_prepared > last_charged, first_prepared is null)
    and coalesce(first_dispatched > last_prepared, first_dispatched is null)
    and (first_dispatched is not null) = (state = 'completed')
) is not true;

-- name: invariant_1
-- Each order has exactly one acceptance.
select o.order_id, format('%%s acceptances in the events', count(e.order_id)) as finding,
    jsonb_build_object('accepted_at', o.accepted_at, 'acceptances', coalesce(jsonb_agg(e.at) filter (where e.at is not null), '[]')) as evidence
from orders o left join events e on e.order_id = o.order_id and e.kind = 'accepted'
where o.order_id = any (%(candidates)s)
group by o.order_id, o.accepted_at
having count(e.order_id) <> 1
limit %(limit)s;

-- name: invariant_2
-- Each order has exactly one outcome event, equal to its state.
select o.order_id, format('the order is %%s, its outcome events are %%s', o.state, coalesce(string_agg(e.state::text, ', '), 'none')) as finding,
    jsonb_build_object('state', o.state, 'outcomes', coalesce(jsonb_agg(jsonb_build_object('at', e.at, 'state', e.state)) filter (where e.at is not null), '[]')) as evidence
from orders o left join events e on e.order_id = o.order_id and e.kind = 'outcome'
where o.order_id = any (%(candidates)s)
group by o.order_id, o.state
having count(e.order_id) <> 1 or bool_or(e.state <> o.state)
limit %(limit)s;

-- name: invariant_3
-- A completed order was charged once and in full, not refunded, and dispatched once to its address.
with finished_orders as not materialized (
    select * from orders where state = 'completed' and (%(run_id)s::text is null or run_id = %(run_id)s)
), payment_totals as (
    select l.order_id,
        count(*) filter (where l.kind = 'charge') as charges,
        coalesce(sum(l.amount_cents) filter (where l.kind = 'charge'), 0) as charged_cents,
        count(*) filter (where l.kind = 'refund') as refunds,
        bool_or(l.currency <> finished_orders.currency) as in_other_currency
    from finished_orders join provider.ledger l using (order_id) where l.kind <> 'void' group by l.order_id
), parcels as (
    select p.order_id,
        -- A carrier without replaceable labels has a recalled parcel for each earlier address.
        count(*) filter (where p.dispatched_at is not null and p.recalled_at is null) as dispatched,
        count(*) filter (where p.recalled_at is not null) as recalled,
        count(*) filter (where p.dispatched_at is not null and p.recalled_at is null
            and p.label_address = finished_orders.address) as with_order_address
    from finished_orders join provider.parcels p using (order_id) group by p.order_id
)
select o.order_id,
    case
        when coalesce(m.charges, 0) <> 1 then format('completed with %%s charges', coalesce(m.charges, 0))
        when m.charged_cents <> o.amount_cents
            then format('charged %%s cents for an order of %%s cents', m.charged_cents, o.amount_cents)
        when m.in_other_currency then format('charged in another currency than %%s', o.currency)
        when m.refunds > 0 then 'completed and refunded'
        when p.dispatched = 0 and p.recalled > 0 then 'completed and recalled'
        when coalesce(p.dispatched, 0) <> 1 then format('completed with %%s dispatches', coalesce(p.dispatched, 0))
        else 'the label does not have the address of the order'
    end as finding,
    jsonb_build_object('amount_cents', o.amount_cents, 'ledger', (
        select jsonb_agg(jsonb_build_object('entry_id', entry_id, 'kind', kind, 'amount_cents', amount_cents, 'payment_id', payment_id) order by entry_id)
        from provider.ledger w where w.order_id = o.order_id and w.kind <> 'void'
    ), 'address', o.address, 'labels', (
        select jsonb_agg(w.label_address) from provider.parcels w where w.order_id = o.order_id
    )) as evidence
from finished_orders o left join payment_totals m using (order_id) left join parcels p using (order_id)
where coalesce(m.charges, 0) <> 1 or m.charged_cents <> o.amount_cents or m.in_other_currency or m.refunds > 0
    or coalesce(p.dispatched, 0) <> 1 or p.with_order_address <> 1
limit %(limit)s;

-- name: invariant_4
-- A cancelled or failed order has a net charge of zero, and its package and parcel are recalled.
with finished_orders as not materialized (
    select * from orders where state > 'completed' and (%(run_id)s::text is null or run_id = %(run_id)s)
), payment_totals as (
    select l.order_id,
        coalesce(sum(l.amount_cents) filter (where l.kind = 'charge'), 0)
            - coalesce(sum(l.amount_cents) filter (where l.kind = 'refund'), 0) as net_cents,
        count(*) filter (where l.kind = 'refund') as refunds,
        count(*) filter (where l.kind = 'charge') as charges
    from finished_orders join provider.ledger l using (order_id) where l.kind <> 'void' group by l.order_id
), not_recalled as (
    select p.order_id, jsonb_build_object('parcel', p.shipment_key, 'dispatched_at', p.dispatched_at) as item
    from finished_orders join provider.parcels p using (order_id) where p.dispatched_at is not null and p.recalled_at is null
    union all
    select p.order_id, jsonb_build_object('package', p.package_key, 'packed_at', p.packed_at)
    from finished_orders join provider.packages p using (order_id) where p.packed_at is not null and p.recalled_at is null
)
select o.order_id,
    case
        when m.net_cents <> 0 or m.charges <> m.refunds then format('%%s with a net charge of %%s cents', o.state, m.net_cents)
        when m.refunds > 1 then format('refunded %%s times', m.refunds)
        else format('%%s, but a package or parcel was not recalled', o.state)
    end as finding,
    jsonb_build_object('state', o.state, 'reason', o.abort_reason, 'ledger', (
        select jsonb_agg(jsonb_build_object('entry_id', entry_id, 'kind', kind, 'amount_cents', amount_cents, 'payment_id', payment_id) order by entry_id)
        from provider.ledger w where w.order_id = o.order_id and w.kind <> 'void'
    ), 'not_recalled', a.item) as evidence
from finished_orders o left join payment_totals m using (order_id) left join not_recalled a using (order_id)
where m.net_cents <> 0 or m.charges <> m.refunds or m.refunds > 1 or a.item is not null
limit %(limit)s;

-- name: invariant_5
-- Each charge has an order, and each stored payment matches the provider's ledger. A charge without an order belongs
-- to the run whose id is the prefix of its order id.
with finished_orders as not materialized (
    select * from orders where state >= 'completed' and (%(run_id)s::text is null or run_id = %(run_id)s)
), provider_payment as (
    select l.payment_id, l.order_id,
        coalesce(sum(l.amount_cents) filter (where l.kind = 'charge'), 0) as charged_cents,
        count(*) filter (where l.kind = 'charge') as charges,
        count(*) filter (where l.kind = 'refund') as refunds
    from finished_orders join provider.ledger l using (order_id) where l.kind <> 'void' group by l.payment_id, l.order_id
), stored_payment as (
    select p.* from finished_orders join payments p using (order_id)
), found as (
    select coalesce(stored.order_id, ledger.order_id) as order_id, ledger.payment_id,
        case when stored.order_id is null then 'a charge without a stored payment'
            else format('the stored payment is %%s, the provider has %%s charges and %%s refunds',
                stored.status, coalesce(ledger.charges, 0), coalesce(ledger.refunds, 0))
        end as finding, to_jsonb(stored) as payment
    from provider_payment ledger
    full join stored_payment stored on stored.payment_id = ledger.payment_id and stored.order_id = ledger.order_id
    where case
        when stored.order_id is null then true
        when stored.status = 'charged' then coalesce(ledger.charges, 0) <> 1 or ledger.refunds <> 0 or ledger.charged_cents <> stored.amount_cents
        when stored.status = 'refunded' then coalesce(ledger.charges, 0) <> 1 or ledger.refunds <> 1 or ledger.charged_cents <> stored.amount_cents
        else coalesce(ledger.charges, 0) <> 0 or coalesce(ledger.refunds, 0) <> 0
    end
    union all
    select distinct l.order_id, l.payment_id, 'charged without an order', null::jsonb
    from provider.ledger l
    where l.kind <> 'void' and not exists (select from orders o where o.order_id = l.order_id)
        and (%(run_id)s::text is null or l.order_id ^@ (%(run_id)s || '-'))
)
select f.order_id, f.finding, jsonb_build_object('payment', f.payment, 'ledger', (
    select jsonb_agg(jsonb_build_object('entry_id', entry_id, 'kind', kind, 'amount_cents', amount_cents) order by entry_id)
    from provider.ledger w where w.payment_id = f.payment_id and w.order_id = f.order_id and w.kind <> 'void'
)) as evidence
from found f
limit %(limit)s;

-- name: invariant_6
-- An order with an accepted cancellation never completes, and the label has the last accepted address.
with finished_orders as (
    select * from orders where state = 'completed' and accepted_at >= (select events_since())
        and (%(run_id)s::text is null or run_id = %(run_id)s)
), accepted_request as (
    select o.order_id, e.detail ->> 'signal' as signal, e.at, e.detail -> 'new_address' as address,
        row_number() over (partition by o.order_id, e.detail ->> 'signal' order by e.at desc) as n
    from finished_orders o join events e on e.order_id = o.order_id
    where e.kind = 'signal' and (e.detail ->> 'accepted')::boolean
        and e.detail ->> 'signal' in ('cancel_order', 'update_address')
)
select p.order_id,
    case p.signal when 'cancel_order' then 'a cancellation was accepted, but the order completed'
        else 'the label does not have the last accepted address' end as finding,
    jsonb_build_object('accepted_at', p.at, 'accepted_address', p.address, 'label', l.label_address) as evidence
from accepted_request p left join provider.parcels l on l.order_id = p.order_id and l.dispatched_at is not null and l.recalled_at is null
where p.n = 1 and (p.signal = 'cancel_order' or p.address is distinct from l.label_address)
limit %(limit)s;

-- name: invariant_7
-- The events are a legal path through the states, in time order, and end with the outcome. Each attempt of a step that
-- must have an event has exactly one, in the order of the attempt numbers.
with transitions as (
    select e.order_id, e.at, e.kind, e.state, e.started_at,
        lag(e.state) over w as before, lag(e.kind) over w as kind_before, lag(e.at) over w as at_before
    from orders o join events e on e.order_id = o.order_id
    where o.order_id = any (%(candidates)s)
    window w as (partition by e.order_id order by e.at)
), attempts as (
    select order_id, at, step, attempt, outcome, lag(attempt) over w as attempt_before, lag(outcome) over w as outcome_before,
        lag(at) over w as at_before
    from events
    where order_id = any (%(candidates)s) and kind = 'attempt'
    window w as (partition by order_id, step order by at)
)
select order_id,
    case
        when kind_before = 'outcome' then 'an event after the outcome'
        when before is null then 'the first event is not the acceptance'
        when started_at > at then 'an attempt ends before it starts'
        else format('from %%s to %%s', before, state)
    end as finding,
    jsonb_build_object('before', jsonb_build_object('at', at_before, 'kind', kind_before, 'state', before),
        'event', jsonb_build_object('at', at, 'kind', kind, 'state', state)) as evidence
from transitions
where kind_before = 'outcome'
    or (before is null) <> (kind = 'accepted')
    or started_at > at
    or (before <> state and not (before::text || '>' || state::text) = any (%(legal_changes)s::text[]))
union all
select order_id,
    format('attempt %%s of %%s follows %%s', attempt, step, coalesce('attempt ' || attempt_before, 'no attempt')),
    jsonb_build_object('before', jsonb_build_object('at', at_before, 'attempt', attempt_before, 'outcome', outcome_before),
        'event', jsonb_build_object('at', at, 'attempt', attempt, 'outcome', outcome))
from attempts
where attempt <= coalesce(attempt_before, 0)
    or exists (select from generate_series(coalesce(attempt_before, 0) + 1, attempt - 1) n where attempt_has_event(n))
limit %(limit)s;

-- name: invariant_8
-- The charges minus the refunds at the provider are the amount of a completed order, and zero for any other order.
with finished_orders as not materialized (
    select * from orders where state >= 'completed' and (%(run_id)s::text is null or run_id = %(run_id)s)
), balance as (
    select l.order_id,
        sum(case l.kind when 'charge' then l.amount_cents when 'refund' then -l.amount_cents else 0 end) as cents
    from finished_orders join provider.ledger l using (order_id) group by l.order_id
)
select o.order_id, format('the provider balance is %%s cents instead of %%s', coalesce(h.cents, 0),
        case o.state when 'completed' then o.amount_cents else 0 end) as finding,
    jsonb_build_object('state', o.state, 'amount_cents', o.amount_cents, 'balance_cents', coalesce(h.cents, 0)) as evidence
from finished_orders o left join balance h using (order_id)
where coalesce(h.cents, 0) <> case o.state when 'completed' then o.amount_cents else 0 end
limit %(limit)s;

-- name: invariant_9
-- No order is charged before its approval or after a rejection.
with finished_orders as not materialized (
    select * from orders where state >= 'completed' and accepted_at >= (select events_since())
        and (%(run_id)s::text is null or run_id = %(run_id)s)
), reviews as (
    select e.order_id,
        min(e.at) filter (where e.state = 'approved') as approved_at,
        min(e.at) filter (where e.kind = 'signal' and e.detail ->> 'signal' = 'reject_order'
            and (e.detail ->> 'accepted')::boolean) as rejected_at
    from finished_orders o join events e on e.order_id = o.order_id
    where e.state = 'approved' or e.kind = 'signal'
    group by e.order_id
)
select l.order_id,
    case when r.approved_at is null then 'charged without an approval'
        when l.at < r.approved_at then 'charged before the approval'
        else 'charged after a rejection' end as finding,
    jsonb_build_object('charged_at', l.at, 'approved_at', r.approved_at, 'rejected_at', r.rejected_at) as evidence
from provider.ledger l join finished_orders o using (order_id) left join reviews r using (order_id)
where l.kind = 'charge' and (r.approved_at is null or l.at < r.approved_at or l.at > r.rejected_at)
limit %(limit)s;

-- name: known_orders
-- The given orders that are stored, to compare them with their workflows in Temporal.
select order_id, state, abort_reason, workflow_run_id, finished_at from orders where order_id = any (%(order_ids)s);

-- name: first_accepted
select min(accepted_at) as accepted_at from orders where %(run_id)s::text is null or run_id = %(run_id)s;
