-- The ledgers of the simulated payment provider, warehouse and carrier. Each call is its own transaction.
--
-- Entries with an entry_ref are copies of another provider's ledger (the last three statements).

-- name: charge
insert into provider.ledger (payment_id, order_id, kind, amount_cents, currency)
values (%(payment_id)s, %(order_id)s, 'charge', %(amount_cents)s, %(currency)s)
on conflict do nothing
returning kind;

-- name: charge_or_void
-- The entry that decided about a payment id: a charge or a void, never both.
select kind, order_id, amount_cents, currency from provider.ledger
where payment_id = %(payment_id)s and kind in ('charge', 'void') and entry_ref is null;

-- name: void
insert into provider.ledger (payment_id, order_id, kind, amount_cents, currency)
values (%(payment_id)s, %(order_id)s, 'void', 0, %(currency)s)
on conflict do nothing
returning kind;

-- name: refund
insert into provider.ledger (payment_id, order_id, kind, amount_cents, currency)
select payment_id, order_id, 'refund', amount_cents, currency from provider.ledger
where payment_id = %(payment_id)s and order_id = %(order_id)s and kind = 'charge' and entry_ref is null
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

-- name: ledger_page
-- The next page of charges and refunds since a time. The first column is the key of the next page.
select lpad(entry_id::text, 20, '0') as entry_ref, payment_id, order_id, kind, amount_cents, currency, at
from provider.ledger
where at >= %(since)s and kind <> 'void' and entry_id > coalesce(nullif(%(after)s, '')::bigint, 0)
order by entry_id limit %(limit)s;

-- name: packages_page
select package_key as package_ref, order_id, packed_at, recalled_at from provider.packages
where package_key > %(after)s and greatest(packed_at, recalled_at) >= %(since)s
order by package_key limit %(limit)s;

-- name: parcels_page
select shipment_key as parcel_ref, order_id, label_version, label_address, tracking, dispatched_at, recalled_at
from provider.parcels
where shipment_key > %(after)s and greatest(dispatched_at, recalled_at) >= %(since)s
order by shipment_key limit %(limit)s;

-- name: copy_entry
insert into provider.ledger (entry_ref, payment_id, order_id, kind, amount_cents, currency, at)
values (%(entry_ref)s, %(payment_id)s, %(order_id)s, %(kind)s, %(amount_cents)s, %(currency)s, %(at)s)
on conflict do nothing;

-- name: copy_package
insert into provider.packages (package_key, order_id, packed_at, recalled_at)
values (%(package_ref)s, %(order_id)s, %(packed_at)s, %(recalled_at)s)
on conflict (package_key) do update set packed_at = excluded.packed_at, recalled_at = excluded.recalled_at;

-- name: copy_parcel
insert into provider.parcels (
    shipment_key, order_id, label_version, label_address, tracking, dispatched_at, recalled_at
)
values (
    %(parcel_ref)s, %(order_id)s, %(label_version)s, %(label_address)s, %(tracking)s, %(dispatched_at)s,
    %(recalled_at)s
)
on conflict (shipment_key) do update set label_version = excluded.label_version,
    label_address = excluded.label_address, tracking = excluded.tracking,
    dispatched_at = excluded.dispatched_at, recalled_at = excluded.recalled_at;
