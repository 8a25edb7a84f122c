-- The ledgers of the simulated payment provider, warehouse and carrier. Each call is its own transaction.

-- name: charge
insert into provider.ledger (payment_id, order_id, kind, amount_cents)
values (%(payment_id)s, %(order_id)s, 'charge', %(amount_cents)s)
on conflict do nothing
returning kind, order_id, amount_cents;

-- name: charge_or_void
-- The entry that decided about a payment id: a charge or a void, never both.
select kind, order_id, amount_cents from provider.ledger
where payment_id = %(payment_id)s and kind in ('charge', 'void');

-- name: void
insert into provider.ledger (payment_id, order_id, kind, amount_cents)
values (%(payment_id)s, %(order_id)s, 'void', 0)
on conflict do nothing
returning kind;

-- name: refund
insert into provider.ledger (payment_id, order_id, kind, amount_cents)
select payment_id, order_id, 'refund', amount_cents from provider.ledger
where payment_id = %(payment_id)s and order_id = %(order_id)s and kind = 'charge'
on conflict do nothing;

-- name: pack
insert into provider.packages as stored (package_key, order_id, items, packed_at)
values (%(package_key)s, %(order_id)s, %(items)s, clock_timestamp())
on conflict (package_key) do update set packed_at = coalesce(stored.packed_at, excluded.packed_at)
where stored.recalled_at is null
returning packed_at;

-- name: unpack
insert into provider.packages as stored (package_key, order_id, recalled_at)
values (%(package_key)s, %(order_id)s, clock_timestamp())
on conflict (package_key) do update set recalled_at = coalesce(stored.recalled_at, excluded.recalled_at);

-- name: dispatch
-- A newer label replaces the stored one; an older one changes nothing.
insert into provider.parcels as stored (shipment_key, order_id, label_version, label_address, tracking, dispatched_at)
values (%(shipment_key)s, %(order_id)s, %(label_version)s, %(address)s, %(tracking)s, clock_timestamp())
on conflict (shipment_key) do update set
    label_version = greatest(stored.label_version, excluded.label_version),
    label_address = case when excluded.label_version > stored.label_version
        then excluded.label_address else stored.label_address end
where stored.recalled_at is null
returning tracking;

-- name: cancel_shipment
insert into provider.parcels as stored (shipment_key, order_id, recalled_at)
values (%(shipment_key)s, %(order_id)s, clock_timestamp())
on conflict (shipment_key) do update set recalled_at = coalesce(stored.recalled_at, excluded.recalled_at);
