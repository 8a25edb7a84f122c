-- migrate:up

-- The records of the simulated payment provider, warehouse and carrier, or copies of a real provider's records, which
-- an audit makes. No table here refers to ours: the audit compares the two.
create schema provider;

create table provider.ledger (
    entry_id bigint generated always as identity primary key,
    payment_id text not null,
    order_id text collate "C" not null,
    kind text not null check (kind in ('charge', 'refund', 'void')),
    amount_cents bigint not null check (amount_cents >= 0),
    currency text not null default 'USD',
    -- The reference of a copied entry at its provider.
    entry_ref text unique,
    at timestamptz not null default clock_timestamp()
);
-- A payment id, the idempotency key, is charged once or voided once, whichever is first, and refunded once.
create unique index ledger_charge_or_void on provider.ledger (payment_id)
    where kind in ('charge', 'void') and entry_ref is null;
create unique index ledger_one_refund on provider.ledger (payment_id) where kind = 'refund' and entry_ref is null;
create index ledger_order on provider.ledger (order_id);
-- Entries are appended in order of time, so this index finds those of the last minutes and costs almost nothing to write.
create index ledger_at on provider.ledger using brin (at) with (pages_per_range = 16, autosummarize = on);

create table provider.packages (
    package_key text primary key,
    order_id text collate "C" not null,
    items jsonb,
    -- Null when the package was cancelled before it was packed. Then it is never packed.
    packed_at timestamptz,
    recalled_at timestamptz
);
create index packages_order on provider.packages (order_id);

create table provider.parcels (
    shipment_key text primary key,
    order_id text collate "C" not null,
    label_version int,
    label_address jsonb,
    tracking text,
    -- Null when the shipment was cancelled before it was dispatched. Then it is never dispatched.
    dispatched_at timestamptz,
    recalled_at timestamptz
);
create index parcels_order on provider.parcels (order_id);

-- migrate:down
drop schema provider cascade;
